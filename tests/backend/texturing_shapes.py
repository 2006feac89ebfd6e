"""Meshes with UV maps, and the weights of an upscaler, for the tests of texturing."""

import numpy as np
import torch
import trimesh

from panoform.backend.texturing.cameras import Mesh

SHAPES = {
    "sphere": lambda: trimesh.creation.icosphere(3),
    "cube": lambda: trimesh.creation.box().subdivide().subdivide(),
    "torus": lambda: trimesh.creation.torus(0.7, 0.3, major_sections=48, minor_sections=24),
}


def unwrapped(shape: trimesh.Trimesh) -> Mesh:
    """Return a mesh whose triangles are islands of their own in the UV map, in a grid of squares of two."""
    shape.apply_scale(1 / shape.extents.max())
    count = len(shape.faces)
    cells = int(np.ceil(np.sqrt((count + 1) // 2)))
    number = np.arange(count)
    corner = np.stack([number // 2 % cells, number // 2 // cells], axis=-1)[:, None] + 0.06
    inside = np.array([[[0, 0], [0.8, 0], [0, 0.8]], [[0.88, 0.88], [0.08, 0.88], [0.88, 0.08]]])[number % 2]
    return Mesh(
        np.array(shape.vertices[shape.faces]), np.array(shape.vertex_normals[shape.faces]), (corner + inside) / cells
    )


def compact_upscaler(scale: int) -> dict[str, torch.Tensor]:
    """Return the weights of a Real-ESRGAN Compact whose last layer is 0: it repeats each pixel."""
    return {
        "body.0.weight": torch.full((8, 3, 3, 3), 0.1), "body.0.bias": torch.zeros(8), "body.1.weight": torch.ones(8),
        "body.2.weight": torch.full((8, 8, 3, 3), 0.1), "body.2.bias": torch.zeros(8), "body.3.weight": torch.ones(8),
        "body.4.weight": torch.zeros(3 * scale**2, 8, 3, 3), "body.4.bias": torch.zeros(3 * scale**2),
    }  # fmt: skip
