"""The points of a .glb file as they are stored: read without an importer, which could turn them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np


def points(path: Path) -> dict[str, np.ndarray]:
    """Return the vertices of each node with a mesh, in the file's own axes, (N, 3). Nodes have a matrix or a TRS."""
    data = path.read_bytes()
    size = struct.unpack("<I", data[12:16])[0]
    tree, binary = json.loads(data[20 : 20 + size]), data[28 + size :]
    found: dict[str, np.ndarray] = {}

    def visit(index: int, parent: np.ndarray) -> None:
        node = tree["nodes"][index]
        world = parent @ _matrix(node)
        for primitive in tree["meshes"][node["mesh"]]["primitives"] if "mesh" in node else ():
            accessor = tree["accessors"][primitive["attributes"]["POSITION"]]
            view = tree["bufferViews"][accessor["bufferView"]]
            start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
            local = np.frombuffer(binary, "<f4", 3 * accessor["count"], start).reshape(-1, 3)
            own = local @ world[:3, :3].T + world[:3, 3]
            found[node["name"]] = np.concatenate([found.get(node["name"], np.empty((0, 3))), own])
        for child in node.get("children", ()):
            visit(child, world)

    for root in tree["scenes"][tree["scene"]]["nodes"]:
        visit(root, np.eye(4))
    return found


def _matrix(node: dict) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"]).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)))
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix
