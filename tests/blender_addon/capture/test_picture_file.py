"""Panorama files as people have them, read by the add-on: the same as by the command line, from a file or an image."""

import bpy
import cycles_truth as cycles
import numpy as np
import picture_cases
import pytest

from panoform.backend.io import panoramas, photo
from panoform.blender_addon.capture import properties, sources
from panoform.shared.protocol.errors import PanoramaError


@pytest.mark.parametrize("case", picture_cases.cases(), ids=picture_cases.identifier)
def test_file_is_read_or_refused(tmp_path, case):
    path = case.write(tmp_path)
    before = set(bpy.data.images)
    if case.pixels is None:
        with pytest.raises(PanoramaError, match=case.refusal) as caught:
            sources.from_file(path, layer=case.layer)
        assert caught.value.hint
    else:
        pixels, encoding = sources.from_file(path, layer=case.layer).panorama
        assert encoding == case.encoding
        np.testing.assert_allclose(pixels, case.pixels, atol=max(case.tolerance, 1e-6))
    assert set(bpy.data.images) == before


def test_image_datablock_is_read_as_its_file(tmp_path):
    chosen = [case for case in picture_cases.cases() if case.pixels is not None][::7]
    for case in chosen:
        for packed in (False, True):
            image = bpy.data.images.load(str(case.write(tmp_path)))
            if packed:
                image.pack()
            pixels, encoding = sources.from_image(image, layer=case.layer).panorama
            bpy.data.images.remove(image)
            assert encoding == case.encoding, case.what
            np.testing.assert_allclose(pixels, case.pixels, atol=max(case.tolerance, 1e-6), err_msg=case.what)


def test_packed_image_without_a_path_may_have_any_name(tmp_path):
    image = bpy.data.images.load(str(picture_cases.write_pillow(tmp_path / "a.png", picture_cases.picture())))
    image.pack()
    image.filepath_raw, image.name = "", ".."
    np.testing.assert_allclose(sources.from_image(image).panorama.pixels, picture_cases.picture(), atol=1e-6)
    bpy.data.images.remove(image)


def test_image_whose_alpha_is_ignored_is_read_as_blender_shows_it(tmp_path):
    cases = {case.what: case for case in picture_cases.cases()}
    image = bpy.data.images.load(str(cases["PNG with a half-transparent half"].write(tmp_path)))
    image.alpha_mode = "NONE"
    captured = sources.from_image(image)
    np.testing.assert_allclose(captured.panorama.pixels, picture_cases.picture(), atol=1e-6)
    assert captured.world_picture().alpha_mode == "NONE"
    bpy.data.images.remove(image)


def test_world_of_a_converted_file_shows_what_was_read(tmp_path):
    for case in picture_cases.cases():
        if case.what in ("EXR, chromaticities of ACES AP0", "PNG, gAMA 1.0", "TIFF of floats", "EXR of several parts"):
            captured = sources.from_file(case.write(tmp_path))
            image = captured.world_picture()
            shown = sources.picture_file.displayed(image).colours
            assert image.packed_file
            np.testing.assert_allclose(shown.pixels, case.pixels, atol=2e-3, err_msg=case.what)
            bpy.data.images.remove(image)


def test_multilayer_image_offers_its_layers(addon, scene, tmp_path):
    (case,) = (case for case in picture_cases.cases() if case.what == "EXR of several parts, `--layer albedo`")
    settings = scene.panoform
    settings.source, settings.filepath = "FILE", str(case.write(tmp_path))
    assert properties.layers(settings) == ["albedo", "beauty"]
    image = bpy.data.images.load(settings.filepath)
    assert image.size[:]
    assert image.type == "MULTILAYER"
    np.testing.assert_array_equal(sources.from_image(image, "albedo").panorama.pixels, case.pixels)
    settings.filepath = str(picture_cases.write_png(tmp_path / "plain.png", [], picture_cases.picture() * 255))
    assert properties.layers(settings) == []


def test_multilayer_file_of_blender_is_read(scene, tmp_path):
    world = bpy.data.worlds.new("colour")
    cycles.use_nodes(world)
    world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.2, 0.4, 0.6, 1)
    scene.world = world
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 1, False
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 32, 16, 100
    scene.view_layers[0].use_pass_normal = scene.view_layers[0].use_pass_diffuse_color = True
    settings = scene.render.image_settings
    if bpy.app.version >= (5, 0):
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.render.filepath = str(tmp_path / "layers.exr")
    bpy.ops.render.render(write_still=True)
    for pixels, encoding in (
        panoramas.read(tmp_path / "layers.exr"),
        sources.from_file(tmp_path / "layers.exr").panorama,
        sources.from_image(bpy.data.images.load(str(tmp_path / "layers.exr"))).panorama,
    ):
        assert encoding == "linear"
        np.testing.assert_allclose(pixels, np.broadcast_to((0.2, 0.4, 0.6), (16, 32, 3)), atol=2e-3)


def test_layers_compressed_by_dwa_are_read_or_refused_with_the_reason(tmp_path):
    picture = picture_cases.linear(picture_cases.picture())
    one = [("", [f"Pano.{c}" for c in "RGB"], picture)]
    pixels, _ = sources.from_file(picture_cases.write_exr(tmp_path / "one.exr", one, "dwaa")).panorama
    np.testing.assert_allclose(pixels, panoramas.read(tmp_path / "one.exr")[0], atol=2e-3)
    two = [("", [f"{name}.{c}" for name in ("albedo", "beauty") for c in "RGB"], np.concatenate([picture] * 2, -1))]
    with pytest.raises(PanoramaError, match=r"DWAA or DWAB \(beauty\)"):
        sources.from_file(picture_cases.write_exr(tmp_path / "two.exr", two, "dwaa"))
    assert panoramas.read(tmp_path / "two.exr")[0].shape == (16, 32, 3)


def test_grey_photo_is_converted_by_its_profile(tmp_path):
    profile = picture_cases.grey_profile(1)
    path = picture_cases.write_pillow(tmp_path / "a.png", picture_cases.picture(), "L", icc_profile=profile)
    read = sources.picture_file.read(path, is_panorama=False).colours
    np.testing.assert_allclose(read.pixels, photo.read(path).pixels, atol=1e-3)
    assert read.pixels.mean() > picture_cases.picture().mean() + 0.1


def test_large_image_is_decoded_once(tmp_path, monkeypatch):
    image = bpy.data.images.load(str(picture_cases.write_pillow(tmp_path / "a.png", picture_cases.picture())))
    loaded, load = [], sources.picture_file.image_limits.load
    monkeypatch.setattr(sources.picture_file.image_limits, "load", lambda path: loaded.append(path) or load(path))
    sources.from_image(image)
    assert len(loaded) == 1
    bpy.data.images.remove(image)


def test_multilayer_file_that_is_cut_short_is_refused(tmp_path):
    (case, *_) = (case for case in picture_cases.cases() if case.what == "EXR of several parts")
    path = case.write(tmp_path)
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(PanoramaError):
            sources.from_file(path)
        with pytest.raises(PanoramaError):
            panoramas.read(path)
