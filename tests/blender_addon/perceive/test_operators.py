"""The operators in bpy, with the real backend in its own process and the starter engine."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
import zipfile
from pathlib import Path

import bpy
import cycles_truth as cycles
import numpy as np
import OpenImageIO as oiio
import pytest
from decoding import decoded
from mathutils import Euler, Matrix

from panoform.blender_addon import FEATURES, preferences
from panoform.blender_addon.backend import operators as backend_operators
from panoform.blender_addon.backend.client import Client
from panoform.blender_addon.backend.process import BackendProcess
from panoform.blender_addon.capture import render, sources
from panoform.blender_addon.jobs.manager import Jobs, State
from panoform.shared import VERSION
from panoform.shared.protocol.errors import BackendLostError

posix_only = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and scripts")


def write_picture(path: Path, array: np.ndarray) -> Path:
    height, width, channels = array.shape
    image = oiio.ImageBuf(oiio.ImageSpec(width, height, channels, oiio.FLOAT))
    image.set_pixels(oiio.ROI(), array.astype(np.float32))
    assert image.write(str(path)), image.geterror()
    return path


def make_wheel(folder: Path) -> None:
    """Make a wheel without dependencies that pip accepts as Panoform's."""
    folder.mkdir()
    info = f"panoform-{VERSION}.dist-info"
    with zipfile.ZipFile(folder / f"panoform-{VERSION}-py3-none-any.whl", "w") as archive:
        archive.writestr("panoform/__init__.py", "")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: panoform\nVersion: {VERSION}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="session")
def panorama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small HDR panorama with a bright side, in a folder with a space and non-ASCII characters."""
    rng = np.random.default_rng(0)
    array = rng.uniform(0.05, 0.6, (64, 128, 3))
    array[20:30, 40:50] = 30
    return write_picture(tmp_path_factory.mktemp("Zoë's pictures") / "größe.exr", array)


def perceive(panorama: Path, **settings) -> None:
    given = {"source": "FILE", "filepath": str(panorama), "maps": {"DISTANCE"}, "quality": "draft", "kind": "DOME"}
    given |= settings
    assert bpy.ops.panoform.perceive(**given) == {"FINISHED"}


def test_file_source_builds_maps_world_and_dome(addon: Jobs, scene, panorama: Path, tmp_path: Path) -> None:
    before = dict(scene.panoform.items())
    perceive(panorama, maps={"DISTANCE", "ROUGHNESS"}, out_directory=str(tmp_path / "mäps"), seed=7)
    assert {path.name for path in (tmp_path / "mäps").iterdir()} == {
        "distance.exr", "roughness.png", "panorama.png", "maps.json"
    }  # fmt: skip
    (result,) = addon.results
    assert result.built
    assert result.reply.info.seed == 7
    assert scene.world.name == "Panoform größe"
    dome = bpy.context.view_layer.objects.active
    assert dome.name == "größe dome"
    # the dome shows the backend's result
    image = bpy.data.images["größe distance"]
    assert image.packed_file.data == result.reply.maps["distance"].tobytes()
    assert image.packed_file.data == (tmp_path / "mäps" / "distance.exr").read_bytes()
    shown = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(shown)
    shown = shown.reshape(image.size[1], image.size[0], 4)[::-1, :, :1]
    np.testing.assert_allclose(shown, decoded(result.reply.maps["distance"]), rtol=0)
    assert dict(scene.panoform.items()) == before, "a script's settings are no business of the scene's"


@pytest.mark.slow
def test_unset_properties_come_from_the_scene(addon: Jobs, scene, panorama: Path) -> None:
    scene.panoform.source, scene.panoform.filepath = "FILE", str(panorama)
    scene.panoform.maps, scene.panoform.quality, scene.panoform.seed = {"ALBEDO"}, "draft", 5
    bpy.ops.panoform.perceive()
    assert set(addon.results[0].reply.maps) == {"albedo"}
    assert addon.results[0].reply.info.seed == 5


@pytest.mark.slow
def test_world_source_and_a_second_run(addon: Jobs, scene, panorama: Path) -> None:
    world = scene.world = bpy.data.worlds.new("Mine")
    cycles.use_nodes(world)
    texture = world.node_tree.nodes.new("ShaderNodeTexEnvironment")
    texture.image = bpy.data.images.load(str(panorama))
    world.node_tree.links.new(texture.outputs["Color"], world.node_tree.nodes["Background"].inputs["Color"])
    bpy.ops.panoform.perceive(source="WORLD", maps={"DISTANCE"}, quality="draft", kind="DOME")
    first = bpy.context.view_layer.objects.active
    first.name = "renamed by me"
    bpy.ops.panoform.perceive(source="WORLD", maps={"DISTANCE"}, quality="draft", kind="DOME")
    assert bpy.context.view_layer.objects.active != first
    assert first.name == "renamed by me"
    assert world.node_tree.nodes.get(texture.name) is not None


@pytest.mark.slow
def test_image_source(addon: Jobs, panorama: Path) -> None:
    image = bpy.data.images.load(str(panorama))
    bpy.ops.panoform.perceive(source="IMAGE", image=image.name, maps={"DISTANCE"}, quality="draft", kind="DOME")
    assert addon.results[0].spec.name == "größe"


@pytest.mark.slow
def test_render_becomes_the_source_image(addon: Jobs, scene) -> None:
    scene.world = bpy.data.worlds.new("Grey")
    scene.world.color = (0.25, 0.25, 0.25)
    scene.cycles.use_denoising = False
    assert bpy.ops.panoform.render_panorama(at_cursor=True, width=64, samples=1) == {"FINISHED"}
    image = scene.panoform.image
    assert scene.panoform.source == "IMAGE"
    assert tuple(image.size) == (64, 32)
    np.testing.assert_allclose(image.pixels[:3], 0.25, rtol=0.01)
    bpy.ops.panoform.perceive(maps={"DISTANCE"}, quality="draft", kind="DOME")
    assert addon.results[0].built


@pytest.mark.slow
def test_render_has_the_size_and_samples_of_the_panel(addon: Jobs, scene, monkeypatch) -> None:
    scene.world = bpy.data.worlds.new("Grey")
    scene.cycles.use_denoising = False
    prepared = []
    prepare = render.Render._prepare

    def recorded(self, source, camera, pose, size, samples):
        prepared.append((size, samples))
        return prepare(self, source, camera, pose, size, samples)

    monkeypatch.setattr(render.Render, "_prepare", recorded)
    scene.panoform.render_width, scene.panoform.render_samples = 96, 3
    bpy.ops.panoform.render_panorama(at_cursor=True)
    assert tuple(scene.panoform.image.size) == (96, 48)
    bpy.ops.panoform.render_panorama(at_cursor=True, width=64, samples=2)
    bpy.ops.panoform.perceive(source="RENDER_CURSOR", maps={"DISTANCE"}, quality="draft", kind="DOME")
    assert prepared == [((96, 48), 3), ((64, 32), 2), ((96, 48), 3)]


@pytest.mark.slow
def test_render_stores_its_pose(addon: Jobs, scene, tmp_path: Path) -> None:
    """The pose is stored in the image, saved in the .blend and used for the dome."""
    scene.world = bpy.data.worlds.new("Grey")
    scene.cycles.use_denoising = False
    scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(scene.camera)
    scene.camera.matrix_world = Matrix.Translation((3, -2, 1.7)) @ Euler((np.pi / 2, 0, np.pi / 6)).to_matrix().to_4x4()
    expected = np.array(sources.camera_pose(scene))
    bpy.ops.panoform.render_panorama(width=64, samples=1)
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "rendered.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "rendered.blend"))
    bpy.ops.panoform.perceive(maps={"DISTANCE"}, quality="draft", kind="DOME")
    dome = bpy.context.view_layer.objects.active
    np.testing.assert_allclose(np.array(dome.matrix_world), expected, atol=1e-5)
    image = bpy.context.scene.panoform.image
    image[sources.POSE_PROPERTY] = "elsewhere"
    refused("not a matrix", source="IMAGE", image=image.name)


def world_render(scene: bpy.types.Scene) -> render.WorldRender:
    world = scene.world = bpy.data.worlds.new("directions")
    cycles.use_nodes(world)
    nodes, links = world.node_tree.nodes, world.node_tree.links
    coordinates = nodes.new("ShaderNodeTexCoord")
    links.new(coordinates.outputs["Generated"], nodes["Background"].inputs["Color"])
    return render.WorldRender(scene)


def panorama_render(scene: bpy.types.Scene) -> render.PanoramaRender:
    return render.PanoramaRender(scene, sources.cursor_pose(scene), width=64, samples=1)


@pytest.mark.parametrize("start", [panorama_render, world_render])
def test_restored_copies_are_removed(addon: Jobs, scene, tmp_path: Path, start) -> None:
    """They are restored by undo, or by loading a file saved during the render."""
    bpy.ops.ed.undo_push(message="before")
    rendering = start(scene)
    own = [scene.world.name] if scene.world else []
    bpy.ops.ed.undo_push(message="in the midst of it")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "midst.blend"), copy=True)
    assert len(bpy.data.scenes) == 2
    rendering.close()
    bpy.ops.ed.undo_push(message="after")
    bpy.ops.ed.undo()
    assert [one.name for one in bpy.data.scenes] == ["Scene"]
    assert [one.name for one in bpy.data.worlds] == own
    assert not bpy.data.cameras
    assert not bpy.data.objects
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "midst.blend"))
    assert [one.name for one in bpy.data.scenes] == ["Scene"]
    assert [one.name for one in bpy.data.worlds] == own
    assert not bpy.data.cameras


@pytest.mark.slow
def test_written_maps_can_be_imported(addon: Jobs, scene, panorama: Path, tmp_path: Path) -> None:
    perceive(panorama, maps={"DISTANCE", "NORMAL"}, out_directory=str(tmp_path / "out"))
    bpy.ops.wm.read_homefile(use_empty=True)
    assert bpy.ops.panoform.import_maps(directory=str(tmp_path / "out")) == {"FINISHED"}
    assert bpy.context.view_layer.objects.active.name == "out dome"
    assert bpy.context.scene.world.name == "Panoform out"


@pytest.mark.slow
def test_maps_do_not_overwrite_user_files(addon: Jobs, scene, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = write_picture(out / "panorama.png", np.full((64, 128, 3), 0.5))
    before = mine.read_bytes()
    image = bpy.data.images.load(str(mine))
    other = write_picture(tmp_path / "other.png", np.full((64, 128, 3), 0.5))
    for source in ({"source": "FILE", "filepath": str(mine)}, {"source": "IMAGE", "image": image.name},
                   {"source": "FILE", "filepath": str(other)}):  # fmt: skip
        refused(r"not a result of Panoform: panorama\.png", **source, out_directory=str(out))
    assert [path.name for path in out.iterdir()] == ["panorama.png"]
    assert mine.read_bytes() == before

    # A source in the folder of an earlier result is not overwritten either.
    result = tmp_path / "result"
    for _ in range(2):
        perceive(other, out_directory=str(result))
    made = (result / "panorama.png").read_bytes()
    refused("is a source", source="FILE", filepath=str(result / "panorama.png"), out_directory=str(result))
    shown = bpy.data.images.load(str(result / "panorama.png"))
    refused("is a source", source="IMAGE", image=shown.name, out_directory=str(result))
    assert (result / "panorama.png").read_bytes() == made
    (result / "albedo.png").write_text("mine")
    refused(r"Panoform: albedo\.png", source="FILE", filepath=str(other), maps={"ALBEDO"}, out_directory=str(result))
    (result / "maps.json").write_bytes(b'{"mine": "\xff"}')
    refused(r"not a result of Panoform: .*maps\.json", source="FILE", filepath=str(other), out_directory=str(result))


# Errors are reported and leave the scene unchanged


def unchanged() -> tuple:
    return tuple(len(getattr(bpy.data, kind)) for kind in ("objects", "meshes", "materials", "worlds", "images"))


def refused(message: str, **settings) -> None:
    before = unchanged()
    with pytest.raises(RuntimeError, match=message):
        bpy.ops.panoform.perceive(**({"maps": {"DISTANCE"}, "quality": "draft", "kind": "DOME"} | settings))
    assert unchanged() == before


def test_world_without_hdri(addon: Jobs, scene) -> None:
    refused("no HDRI", source="WORLD")
    assert "no HDRI" in addon.failure.details


def test_missing_image(addon: Jobs) -> None:
    refused("no image named 'nope'", source="IMAGE", image="nope")
    refused("No image is selected", source="IMAGE")


def test_missing_file(addon: Jobs, tmp_path: Path) -> None:
    refused("There is no file", source="FILE", filepath=str(tmp_path / "nope.exr"))
    refused("No file is selected", source="FILE")


def test_file_that_is_not_an_image(addon: Jobs, tmp_path: Path) -> None:
    (tmp_path / "broken.exr").write_bytes(b"v/1\x01 and no more")
    refused("broken", source="FILE", filepath=str(tmp_path / "broken.exr"))


def test_aspect_ratio_other_than_2_to_1(addon: Jobs, tmp_path: Path) -> None:
    refused("2:1", source="FILE", filepath=str(write_picture(tmp_path / "square.exr", np.full((64, 64, 3), 0.5))))


@pytest.mark.slow
def test_invalid_pixels_are_rejected_unless_repaired(addon: Jobs, tmp_path: Path) -> None:
    array = np.full((64, 128, 3), 0.5)
    array[3, 4] = np.nan
    path = write_picture(tmp_path / "nan.exr", array)
    refused("not a number", source="FILE", filepath=str(path))
    assert bpy.ops.panoform.perceive(
        source="FILE", filepath=str(path), maps={"DISTANCE"}, quality="draft", repair=True, kind="DOME"
    ) == {"FINISHED"}


def test_render_without_camera(addon: Jobs) -> None:
    refused("no camera", source="RENDER_CAMERA")


def test_unknown_map_engine_or_quality(addon: Jobs, panorama: Path) -> None:
    for wrong in ({"maps": {"DEPTH"}}, {"engine": "DALLE"}, {"quality": "ultra"}):
        with pytest.raises((TypeError, ValueError), match="not found"):
            perceive(panorama, **wrong)


def test_no_maps_selected(addon: Jobs, panorama: Path) -> None:
    refused("No map was asked for", source="FILE", filepath=str(panorama), maps=set())


def test_folder_without_maps(addon: Jobs, tmp_path: Path) -> None:
    before = unchanged()
    with pytest.raises(RuntimeError, match="contains no map"):
        bpy.ops.panoform.import_maps(directory=str(tmp_path))
    assert unchanged() == before


def test_flux_without_weights(addon: Jobs, panorama: Path, tmp_path: Path) -> None:
    bpy.context.preferences.addons["panoform"].preferences.flux_model = str(tmp_path / "no flux here")
    refused("no flux here", source="FILE", filepath=str(panorama), engine="FLUX")


# The backend


def test_missing_backend(addon: Jobs, stopped, panorama: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", str(tmp_path / "python"))
    refused("can't be started", source="FILE", filepath=str(panorama))
    monkeypatch.delenv("PANOFORM_BACKEND_PYTHON")
    refused("is not set up", source="FILE", filepath=str(panorama))


def test_python_without_panoform(addon: Jobs, stopped, panorama: Path, monkeypatch) -> None:
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", sys._base_executable)
    refused("has no Panoform installed", source="FILE", filepath=str(panorama))


@posix_only
def test_backend_version_mismatch(addon: Jobs, stopped, panorama: Path, monkeypatch, tmp_path: Path) -> None:
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys, time\n"
        "path = sys.argv[sys.argv.index('--connection-file') + 1]\n"
        "draft = pathlib.Path(path + '.draft')\n"
        "draft.write_text(json.dumps({'protocol': 999}))\n"
        "draft.replace(path)\n"  # as a whole: it is read at any time
        "time.sleep(60)\n"
    )
    stand_in.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PANOFORM_BACKEND_PYTHON", str(stand_in))
    refused("999", source="FILE", filepath=str(panorama))
    assert addon.session is None


def when_running(addon: Jobs, act) -> threading.Thread:
    """Call `act(pid)` once the job is sent to the backend."""

    def watch() -> None:
        while addon.job is None or addon.job.id is None:
            time.sleep(0.005)
        act(addon.session.status.pid)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
@posix_only
def test_killed_backend_is_reported_and_restarted(addon: Jobs, stopped, panorama: Path) -> None:
    thread = when_running(addon, lambda pid: os.kill(pid, signal.SIGKILL))
    refused("exited", source="FILE", filepath=str(panorama))
    thread.join()
    assert isinstance(addon.failure.error, BackendLostError)
    perceive(panorama)
    assert addon.failure is None


@posix_only
@pytest.mark.slow
def test_unresponsive_backend_is_stopped(addon: Jobs, stopped, panorama: Path, monkeypatch) -> None:
    monkeypatch.setattr(Client.__init__, "__kwdefaults__", {"ping_after_s": 0.2, "reply_timeout_s": 0.5})
    monkeypatch.setattr(BackendProcess.stop, "__defaults__", (0.2,))  # a suspended process only reacts to SIGKILL
    thread = when_running(addon, lambda pid: os.kill(pid, signal.SIGSTOP))
    refused("not responded", source="FILE", filepath=str(panorama))
    thread.join()
    assert addon.session is None


@pytest.mark.slow
def test_setup_operator_installs_the_backend_and_tries_it(
    addon: Jobs, stopped, monkeypatch, tmp_path: Path, capsys
) -> None:
    """With a dummy wheel and no network: the trial finds that no backend is in it."""
    make_wheel(tmp_path / "backend_wheel")
    monkeypatch.setattr(backend_operators, "EXTENSION_FOLDER", tmp_path)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PANOFORM_BACKEND_PYTHON")
    preferences.get().folder = str(tmp_path / "data")
    if not bpy.app.online_access:
        with pytest.raises(RuntimeError, match="poll"):
            bpy.ops.panoform.setup_backend()
        assert "online access" in backend_operators._setup_disabled_reason()
    monkeypatch.setattr(bpy.context.preferences.system, "use_online_access", True)
    assert addon.state is State.NOT_SET_UP
    with pytest.raises(RuntimeError, match="has no Panoform installed"):
        bpy.ops.panoform.setup_backend()
    assert addon.state is State.STOPPED
    assert "Panoform: Creating the Python environment" in capsys.readouterr().out


def test_checkout_has_no_wheel(addon: Jobs, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backend_operators, "EXTENSION_FOLDER", tmp_path)
    monkeypatch.delenv("PANOFORM_BACKEND_PYTHON")
    monkeypatch.setattr(bpy.context.preferences.system, "use_online_access", True)
    with pytest.raises(RuntimeError, match="does not include the backend"):
        bpy.ops.panoform.setup_backend()


def test_hub_token_is_readable_by_its_owner_only(addon: Jobs, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN_PATH", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(RuntimeError, match="not a Hugging Face access token"):
        bpy.ops.panoform.save_hub_token(token="secret")
    assert bpy.ops.panoform.save_hub_token(token=" hf_secret\n") == {"FINISHED"}
    path = tmp_path / "hub" / "token"
    assert path.read_text() == "hf_secret"
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_operator_has_a_description(registered) -> None:
    for cls in (cls for feature in FEATURES if feature.__name__.endswith(".operators") for cls in feature.CLASSES):
        assert cls.bl_idname.startswith("panoform.")
        assert cls.__doc__
        assert not cls.__doc__.endswith("."), "Blender adds the full stop"
