"""Run in Blender's window: generate a panorama, cancel, generate again and undo; render the scene during a job;
replace the sun by a lamp. The world is recorded after each step.

Started with --enable-event-simulate and -- OUT FOLDER MODEL ADAPTERS LORA. Writes its results to OUT/seen.json.
"""

import sys
from pathlib import Path

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from window_runner import EXTENSION, press, run, window

OUT, FOLDER, MODEL, ADAPTERS, LORA = sys.argv[sys.argv.index("--") + 1 :]
jobs = sys.modules[f"{EXTENSION}.blender_addon.jobs.manager"].jobs
panoramas = Path(OUT) / "panoramas"
results: dict = {}


def state():
    """Return the world, all worlds and the files on disk."""
    files = sorted(file.name for file in panoramas.iterdir()) if panoramas.exists() else []
    return [window().scene.world.name, sorted(world.name for world in bpy.data.worlds), files]


def generate(steps, **options):
    with bpy.context.temp_override(window=window()):
        return "FINISHED" in bpy.ops.panoform.generate(
            prompt="a yard", lora=LORA, height=256, num_inference_steps=steps, seed=3, **options
        )


def until_shown():
    """Wait until the world shows the preview."""
    while jobs.job is not None and not jobs.job.previews:
        yield 0.2
    yield 0.5


def cancel():
    with bpy.context.temp_override(window=window()):
        bpy.ops.panoform.cancel()
    while jobs.job is not None:
        yield 0.2
    yield 0.5


def render():
    """Start a render of 30 s without a render window."""
    scene = window().scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.time_limit = 2**24, 30
    scene.cycles.use_adaptive_sampling = scene.cycles.use_denoising = False
    scene.render.resolution_x = scene.render.resolution_y = 64
    bpy.context.preferences.view.render_display_type = "NONE"
    with bpy.context.temp_override(window=window()):
        bpy.ops.render.render("INVOKE_DEFAULT")


def create_sunny_world():
    """Create a world with a sun, as a user would."""
    image = bpy.data.images.new("sky", 128, 64, float_buffer=True, is_data=True)
    pixels = np.full((64, 128, 4), 0.3, np.float32)
    pixels[48:50, 20:22] = 500
    pixels[..., 3] = 1
    image.pixels.foreach_set(pixels.ravel())
    image.pack()
    sky = bpy.data.worlds.new("sunny")
    sky.use_nodes = True
    texture = sky.node_tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = image
    sky.node_tree.links.new(texture.outputs["Color"], sky.node_tree.nodes["Background"].inputs["Color"])
    window().scene.world = sky


def lamps():
    """Return the world and the lamps."""
    return [window().scene.world.name, sorted(thing.name for thing in window().scene.objects if thing.type == "LIGHT")]


def steps():
    chosen = bpy.context.preferences.addons[EXTENSION].preferences
    chosen.folder, chosen.flux_model, chosen.flux_adapters = FOLDER, MODEL, ADAPTERS
    chosen.device, chosen.dtype = "cpu", "fp32"
    bpy.context.scene.panoform.generate.folder = str(panoramas)
    bpy.ops.ed.undo_push(message="settings")
    yield from press("ESC")  # closes the splash screen
    results["before"] = state()

    results["returned at once"] = generate(steps=40)
    yield from until_shown()
    results["during the job"] = state()
    yield from cancel()
    results["cancelled"] = state()
    results["error message"] = jobs.failure.error.message

    generate(steps=2)
    while jobs.job is not None:
        yield 0.2
    yield 1.5
    results["failure"] = jobs.failure and jobs.failure.details
    results["generated"] = state()
    yield from press("Z", ctrl=True)
    results["undone"] = state()
    yield from press("Z", ctrl=True, shift=True)
    results["redone"] = state()

    generate(steps=100)
    yield from until_shown()
    render()
    results["rendering during the job"] = [bpy.app.is_job_running("RENDER"), window().scene.world.name]
    yield 2.0
    yield from cancel()
    results["rendering after the job"] = [bpy.app.is_job_running("RENDER"), window().scene.world.name]
    while bpy.app.is_job_running("RENDER"):
        yield 0.2
    yield 1.0
    results["rendered"] = [bpy.data.images["Render Result"].has_data, state()]

    generate(steps=1, count=2)
    while jobs.job is not None:
        yield 0.2
    yield 1.5
    results["two generated"] = state()

    create_sunny_world()
    bpy.ops.ed.undo_push(message="sun")
    results["with sun"] = lamps()
    with bpy.context.temp_override(window=window()):
        bpy.ops.panoform.split_sun("EXEC_DEFAULT", True)
    results["split"] = lamps()
    yield from press("Z", ctrl=True)
    results["split undone"] = lamps()


run(steps(), results, Path(OUT))
