"""Texturing in bpy, with a real backend process and tests/backend's tiny Stable Diffusion 2.1."""

from __future__ import annotations

from pathlib import Path

import bpy
import msgspec
import numpy as np
import pytest
from textured import TINY, rendered, texture

from panoform.backend.io.encoding import encode_image
from panoform.backend.texturing import cameras, frame
from panoform.blender_addon import preferences
from panoform.blender_addon.capture import pixels
from panoform.blender_addon.jobs.manager import Jobs, find_scene
from panoform.blender_addon.texture import mesh, operators, spec
from panoform.blender_addon.texture.build import RECORD
from panoform.shared.jobs.texture import VIEWS, TextureInfo, TextureSettings


def suzanne() -> bpy.types.Object:
    bpy.ops.mesh.primitive_monkey_add(calc_uvs=False)
    thing = bpy.context.view_layer.objects.active
    thing.modifiers.new("smooth", "SUBSURF").levels = 1
    return thing


def records() -> dict[str, list[str]]:
    kinds = ("objects", "meshes", "materials", "images", "scenes")
    return {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in kinds}


def known_views(asked, side: int) -> dict[str, np.ndarray]:
    """Return the files of views that show a smooth pattern in space on the requested mesh."""
    part, _ = frame.prepare(asked)
    files = {}
    for number, name in enumerate(VIEWS):
        view = cameras.render(part, number, side)
        colour = 0.5 + 0.4 * np.sin(view.position * (5, 7, 6) + (0, 1, 2))
        shown = np.where(view.mask[..., None], colour, 0.5).astype(np.float32)
        files[name] = np.frombuffer(encode_image(f"{name}.png", shown, "sRGB", bits=8), np.uint8)
    return files


def run(jobs: Jobs, job: spec.TextureSpec) -> bpy.types.Material:
    """Run a job and build its result, as its operator does."""
    jobs.begin(job)
    before = set(bpy.data.materials)
    jobs.wait().build(find_scene(job.scene_uid))
    (new,) = set(bpy.data.materials) - before
    return new


def bake(jobs: Jobs, objects: list[bpy.types.Object], side: int, size: int) -> bpy.types.Material:
    """Bake the pattern's views onto objects."""
    read, settings = mesh.read(objects), TextureSettings(texture_size=size)
    engine = preferences.get().texture_engine_settings()
    job = spec.from_mesh(read, objects[0].name, bpy.context.scene, engine, settings, views=dict.fromkeys(VIEWS))
    job.request.views = known_views(job.request, side)
    return run(jobs, job)


@pytest.mark.slow
def test_picture_is_projected_without_a_model(set_up: Jobs, reference, tmp_path) -> None:
    """A red disc on a sphere without UV map: Cycles sees it red, from the front and the sides."""
    preferences.get().multiview_model = ""
    bpy.ops.mesh.primitive_uv_sphere_add(calc_uvs=False, location=(3, 1, 0), radius=0.4)
    thing = bpy.context.view_layer.objects.active
    material = texture(reference="disc")
    assert msgspec.json.decode(material[RECORD], type=TextureInfo).task == "projection"
    image = rendered(material, mesh.read([thing]).triangles, 64, tmp_path)
    inside = image[..., 3] > 0.99
    assert inside.sum() > 2000
    np.testing.assert_allclose(image[inside][:, :3], np.broadcast_to((0.8, 0.15, 0.1), (inside.sum(), 3)), atol=0.03)


def test_panel_does_not_enlarge_views_without_a_model(set_up: Jobs, scene, reference, monkeypatch) -> None:
    """It doesn't show the setting then."""
    begun: list = []
    monkeypatch.setattr(operators, "run_job", lambda _, job: begun.append(job) or {"FINISHED"})
    preferences.get().multiview_model = ""
    bpy.ops.mesh.primitive_cube_add()
    scene.panoform.texture.upscale = "file"
    try:
        assert bpy.ops.panoform.texture(**TINY, reference="disc") == {"FINISHED"}
    finally:
        scene.panoform.texture.property_unset("upscale")
    assert begun[0].request.settings.upscale == "off"


@pytest.mark.slow
def test_views_are_drawn_and_become_a_material(set_up: Jobs, reference, capfd) -> None:
    thing = suzanne()
    mine = bpy.data.materials.new("mine")
    thing.data.materials.append(mine)
    bpy.ops.ed.undo_push(message="before")
    before = records()
    material = texture(reference="disc", seed=3)
    assert "Panoform: Views" in capfd.readouterr().out
    assert material.name == "Panoform Suzanne"
    assert [slot.material for slot in thing.material_slots] == [material]
    assert mine.use_fake_user
    assert [layer.name for layer in thing.data.uv_layers] == ["Panoform"]
    nodes = {node.bl_idname: node for node in material.node_tree.nodes}
    assert nodes["ShaderNodeUVMap"].uv_map == "Panoform"
    image = nodes["ShaderNodeTexImage"].image
    assert image.packed_file
    assert tuple(image.size) == (128, 128)
    assert image.colorspace_settings.name == "sRGB"
    surface = nodes["ShaderNodeBsdfPrincipled"].inputs
    assert (surface["Roughness"].default_value, surface["Metallic"].default_value) == (1, 0)
    info = msgspec.json.decode(material[RECORD], type=TextureInfo)
    assert (info.task, info.source, info.settings.seed, info.view_size) == ("ig2mv", "disc", 3, 64)
    assert [material[f"panoform_view_{name}"].size[0] for name in VIEWS] == [64] * 6
    after = records()
    assert (after["scenes"], after["objects"], after["meshes"]) == (
        before["scenes"], before["objects"], before["meshes"],
    )  # fmt: skip
    assert len(after["images"]) == len(before["images"]) + 7
    bpy.ops.ed.undo_push(message="Texture")
    bpy.ops.ed.undo()
    assert records() == before
    thing = bpy.data.objects["Suzanne"]
    assert [slot.material.name for slot in thing.material_slots] == ["mine"]
    assert not thing.data.uv_layers


@pytest.mark.slow
def test_views_are_baked_again_after_painting_and_moving(set_up: Jobs, reference) -> None:
    bpy.ops.mesh.primitive_cube_add()
    thing = bpy.context.view_layer.objects.active
    first = texture(prompt="a red cube")
    assert msgspec.json.decode(first["panoform_texture"], type=TextureInfo).task == "tg2mv"
    painted = first["panoform_view_front"]
    painted.pixels.foreach_set(np.tile((0.0, 1.0, 0.0, 1.0), 64 * 64).astype("f"))
    thing.rotation_euler, thing.location = (0, 0, 1), (4, 0, 0)
    bpy.context.view_layer.update()
    assert bpy.ops.panoform.bake_texture_again(size=256) == {"FINISHED"}
    second = thing.active_material
    assert second != first
    nodes = {node.bl_idname: node for node in second.node_tree.nodes}
    image = nodes["ShaderNodeTexImage"].image
    assert image.size[0] == 256
    # The front face, that towards its own -Y, is green.
    face = next(polygon for polygon in thing.data.polygons if polygon.normal.y < -0.9)
    uv = np.mean([thing.data.uv_layers[nodes["ShaderNodeUVMap"].uv_map].uv[i].vector for i in face.loop_indices], 0)
    colour = pixels.raw(image)[int((1 - uv[1]) * 256), int(uv[0] * 256)]
    np.testing.assert_allclose(colour[:3], (0, 1, 0), atol=0.02)
    info = msgspec.json.decode(second["panoform_texture"], type=TextureInfo)
    assert (info.task, info.settings.texture_size) == ("tg2mv", 256)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["suzanne", "two"])
def test_known_views_are_seen_again_by_cycles(set_up: Jobs, shape, tmp_path: Path) -> None:
    """A pattern baked from its views, and rendered by Cycles from the front camera: 41.9 dB for Suzanne."""
    if shape == "suzanne":
        objects = [suzanne()]
    else:
        bpy.ops.mesh.primitive_cube_add(rotation=(0.3, 0, 0.4))
        bpy.ops.mesh.primitive_uv_sphere_add(location=(2, 0.5, 0))
        objects = [bpy.data.objects["Sphere"], bpy.data.objects["Cube"]]
        objects[0].scale = (-1, 1, 1.2)
        bpy.context.view_layer.update()
    material = bake(set_up, objects, 256, 1024)
    assert all(thing.material_slots[0].material == material for thing in objects)
    asked = set_up.results[0].spec.request
    shown = rendered(material, asked, 256, tmp_path)
    part, _ = frame.prepare(asked)
    view = cameras.render(part, 0, 256)
    inside = (shown[..., 3] > 0.99) & view.mask
    assert (inside.sum() / view.mask.sum()) > 0.95
    truth = 0.5 + 0.4 * np.sin(view.position * (5, 7, 6) + (0, 1, 2))
    psnr = -10 * np.log10(((shown[..., :3] - truth)[inside] ** 2).mean())
    print(f"{shape}: {psnr:.1f} dB")
    assert psnr > 38


def test_errors_change_nothing(set_up: Jobs, scene, reference) -> None:
    assert not bpy.ops.panoform.texture.poll()
    assert not bpy.ops.panoform.bake_texture_again.poll()
    bpy.ops.mesh.primitive_cube_add()
    before = records()
    for options, message in (
        ({}, "neither a reference picture nor a prompt"),
        ({"prompt": "  "}, "neither a reference picture nor a prompt"),
        ({"reference": "nope"}, "no image named 'nope'"),
        ({"prompt": "a cube", "size": 9999}, "texture's size is 9999 px"),
        ({"prompt": "a cube", "view_size": 100}, "Use 64 or 128"),
    ):
        with pytest.raises(RuntimeError, match=message):
            bpy.ops.panoform.texture(**TINY | options)
    preferences.get().multiview_model = ""
    with pytest.raises(RuntimeError, match="A prompt alone needs a model"):
        bpy.ops.panoform.texture(prompt="a cube")
    with pytest.raises(RuntimeError, match="draws no views that could be enlarged"):
        bpy.ops.panoform.texture(reference="disc", upscale="bicubic")
    assert records() == before
    bpy.ops.object.mode_set(mode="EDIT")
    assert not bpy.ops.panoform.texture.poll()


@pytest.mark.slow
def test_object_edited_or_removed_meanwhile(set_up: Jobs) -> None:
    thing = suzanne()
    bake(set_up, [thing], 64, 128)
    result = set_up.results[0]
    before = records()
    with pytest.raises(Exception, match="edited since"):  # its UV map is there by now
        result.build(bpy.context.scene)
    bpy.data.objects.remove(thing)
    before["objects"].remove("Suzanne")
    with pytest.raises(Exception, match="no longer exists"):
        result.build(bpy.context.scene)
    assert records() == before
