"""Tangent-space normals, against Cycles' own baker."""

from __future__ import annotations

import bpy
import numpy as np
import pytest

from panoform.backend.io.encoding import encode_image
from panoform.blender_addon.scene import dome, images, material, mesh, tangents
from panoform.shared.imaging import sphere

HEIGHT = 64


@pytest.fixture
def body(scene) -> bpy.types.Object:
    """A wavy dome whose triangles at the seam go on beyond u = 1."""
    positions, uv, faces = dome.grid(48, 24)
    radius = 2 + 0.3 * np.sin(4 * positions[:, :1]) * np.cos(3 * positions[:, 1:2])
    faces = faces[48:-48]  # at the poles, quadrilaterals have no area
    triangles = np.concatenate([faces[:, [0, 1, 2]], faces[:, [0, 2, 3]]])
    made = bpy.data.meshes.new("dome")
    shifted = uv[triangles] + (0.01, 0)
    mesh.set_geometry(made, (positions * radius).astype(np.float32), triangles, shifted.astype(np.float32))
    made.shade_smooth()
    body = bpy.data.objects.new("dome", made)
    scene.collection.objects.link(body)
    return body


def normals() -> np.ndarray:
    turned = sphere.directions(HEIGHT, 2 * HEIGHT) * (-1, -1, -1) + (0.2, 0.1, -0.3)
    return (turned / np.linalg.norm(turned, axis=-1, keepdims=True)).astype(np.float32)


def packed(kind: str, values: np.ndarray) -> bpy.types.Image:
    data = np.frombuffer(encode_image(f"{kind}.exr", values, "Non-Color"), np.uint8)
    return images.create_from_file(kind, data, "Non-Color")


@pytest.mark.slow
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_equals_what_cycles_bakes(scene, body, strength: float) -> None:
    given = normals()
    strengths = np.full((HEIGHT, 2 * HEIGHT, 1), strength, np.float32)
    made = body.data
    found = tangents.bake([(made, np.ones(len(made.polygons), bool))], given, strengths)
    look = material.create("look", {"normal": packed("normal", given), "confidence": packed("confidence", strengths)})
    made.materials.append(look)
    target = bpy.data.images.new("target", 2 * HEIGHT, HEIGHT, is_data=True, alpha=True, float_buffer=True)
    node = look.node_tree.nodes.new("ShaderNodeTexImage")
    node.image, look.node_tree.nodes.active = target, node
    target.pixels.foreach_set(np.zeros(8 * HEIGHT * HEIGHT, np.float32))
    scene.render.engine, scene.cycles.samples, scene.cycles.use_denoising = "CYCLES", 16, False
    body.select_set(True)
    bpy.context.view_layer.objects.active = body
    bpy.ops.object.bake(type="NORMAL", normal_space="TANGENT", margin=0, use_clear=False, uv_layer="UVMap")
    baked = np.empty(8 * HEIGHT * HEIGHT, np.float32)
    target.pixels.foreach_get(baked)
    baked = baked.reshape(HEIGHT, 2 * HEIGHT, 4)[::-1]
    inside = np.zeros(baked.shape[:2], bool)
    inside[5:-5, 3:-3] = True  # Cycles bakes nothing beyond u = 1
    vectors = baked[..., :3] * 2 - 1
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    angle = np.degrees(np.arccos((vectors * found).sum(-1).clip(-1, 1)))[inside]
    assert np.median(angle) < 0.2
    assert np.quantile(angle, 0.99) < 1


def test_wraps_at_the_seam_and_continues_beyond_the_triangles(body) -> None:
    """Columns beyond u = 1 are those at u = 0; without triangles near, the normal is that of the mesh."""
    given = normals()
    made = body.data
    found = tangents.bake([(made, np.ones(len(made.polygons), bool))], given)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=1e-5)
    step = np.degrees(np.arccos((found[8:-8, 0] * found[8:-8, -1]).sum(-1).clip(-1, 1)))
    usual = np.degrees(np.arccos((found[8:-8, 1] * found[8:-8, 0]).sum(-1).clip(-1, 1)))
    assert step.max() < 3 * usual.max() + 1
    none = tangents.bake([(made, np.zeros(len(made.polygons), bool))], given)
    np.testing.assert_array_equal(none, np.broadcast_to([0, 0, 1], none.shape))
