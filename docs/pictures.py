"""Make the documentation's pictures of the panel, in Blender's window with the extension installed:

    blender --window-geometry 0 0 1600 900 --python docs/pictures.py -- OUT

They show the maps that the starter perceives of `interior.exr`, which comes with Blender. It takes some minutes, and
needs X11 with a screen of that size, and ImageMagick's `import`.
"""

import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import bpy
from mathutils import Quaternion, Vector

OUT = Path(sys.argv[sys.argv.index("--") + 1])
#: Seconds until Blender has drawn the window, and compiled its shaders.
DRAWN_S, COMPILED_S = 2.0, 40.0
WIDTH = 1280
#: How far the view is turned to the left, and where from it looks, beside the panorama's viewpoint in metres.
TURN_RAD, ASIDE = 0.9, Vector((0.2, -0.15, 0))
LENS_MM = 26

bpy.context.preferences.view.show_splash = False


def window() -> bpy.types.Window:
    return bpy.context.window_manager.windows[0]


def view() -> bpy.types.Area:
    return next(area for area in window().screen.areas if area.type == "VIEW_3D")


def region(kind: str) -> bpy.types.Region:
    return next(region for region in view().regions if region.type == kind)


def screenshot(path: Path, crop: tuple[int, int, int, int] | None = None) -> None:
    """Write the window as PNG, `WIDTH` pixels wide, or a part of it: left, bottom, width, height."""
    # Blender's own operator gives black where OpenGL is drawn in software.
    subprocess.run(["import", "-window", "root", str(path)], check=True)
    image = bpy.data.images.load(str(path))
    if crop is None:
        image.scale(WIDTH, round(WIDTH * image.size[1] / image.size[0]))
    else:
        left, bottom, width, height = crop
        rows = list(image.pixels)
        stride = 4 * image.size[0]
        part = bpy.data.images.new("part", width, height)
        part.pixels[:] = [
            value
            for row in range(bottom, bottom + height)
            for value in rows[row * stride + 4 * left : row * stride + 4 * (left + width)]
        ]
        bpy.data.images.remove(image)
        image = part
    image.filepath_raw, image.file_format = str(path), "PNG"
    image.save()
    bpy.data.images.remove(image)


def _look(turn_rad: float, aside: Vector) -> None:
    view().spaces.active.lens = LENS_MM
    space = view().spaces.active.region_3d
    towards = Vector((0, 0, space.view_distance))
    eye = space.view_location + space.view_rotation @ towards + aside
    space.view_rotation = Quaternion((0, 0, 1), turn_rad) @ space.view_rotation
    space.view_location = eye - space.view_rotation @ towards


def _open_generate() -> None:
    """Let the section Generate start open, and its options closed. Only before the tab is shown."""
    panels = [bpy.types.PANOFORM_PT_generate, bpy.types.PANOFORM_PT_generate_options]
    for panel in reversed(panels):
        bpy.utils.unregister_class(panel)
    panels[0].bl_options = set()
    for panel in panels:
        bpy.utils.register_class(panel)


def steps() -> Iterator[float]:
    """Yield the seconds to wait before the next step."""
    scene = window().scene
    files = Path(bpy.utils.system_resource("DATAFILES")) / "studiolights" / "world"
    tree = scene.world.node_tree
    texture = tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = bpy.data.images.load(str(files / "interior.exr"))
    tree.links.new(texture.outputs["Color"], tree.nodes["Background"].inputs["Color"])
    bpy.data.objects["Cube"].hide_set(True)
    _open_generate()
    view().spaces.active.show_region_ui = True
    yield DRAWN_S
    region("UI").active_panel_category = "Panoform"
    with bpy.context.temp_override(window=window(), area=view(), region=region("WINDOW")):
        bpy.ops.panoform.perceive(source="WORLD")
    while not any("Panoform" in collection.name for collection in bpy.data.collections):
        yield 1.0
    yield DRAWN_S
    _look(TURN_RAD, ASIDE)
    yield COMPILED_S
    screenshot(OUT / "panel.png")

    generate = scene.panoform.generate
    generate.of, generate.prompt, scene.panoform.engine = "WORDS", "a stone courtyard at dusk", "FLUX"
    yield DRAWN_S
    sidebar = region("UI")
    screenshot(OUT / "panel-generate.png", (sidebar.x, sidebar.y, sidebar.width, sidebar.height))


def step(left: Iterator[float] = steps()) -> float | None:  # noqa: B008
    try:
        return next(left)
    except StopIteration:
        (OUT / "seen.json").write_text("{}")
    except Exception:
        traceback.print_exc()
    bpy.ops.wm.quit_blender()
    return None


bpy.app.timers.register(step, first_interval=DRAWN_S)
