"""Distance → dome: a UV sphere around the object's origin, displaced along its rays by a Geometry Nodes modifier.

The mesh is coarse and regular; the modifier subdivides it (Detail) and positions each vertex by its UV (rays.py), so
that Scale, Amount and Detail remain adjustable. Scale is in metres per unit of distance; Amount 0 is a sphere of radius
Scale, 1 the full distance.
"""

from __future__ import annotations

import math

import bpy
import numpy as np
from mathutils import Matrix, Vector

from ...shared.imaging import sphere
from . import rays

COLUMNS, ROWS = 64, 32
#: 512 × 256 faces.
DETAIL = 3
#: A floor: unit normal, upwards, in the panorama's frame, and the depth of its plane. See Info in
#: shared/jobs/perceive.py.
FloorPlane = tuple[float, float, float, float]
#: Smallest tilt of a floor that is levelled, in degrees, as for meshes (backend/scene/placement.py).
SMALLEST_TILT = 0.2
#: Radius of a dome without a distance map, in metres.
SPHERE_RADIUS_M = 10.0
MODIFIER_NAME = "Panoform Dome"


def grid(columns: int, rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a UV sphere of radius 1: positions ((rows+1)·(columns+1), 3) and UVs (…, 2), both float32, and faces
    (rows·columns, 4) int32, facing inward.

    Columns run from u = 0 to u = 1, so the seam has two columns; the first and the last row are the poles.
    """
    u, v = np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(1, 0, rows + 1))
    lon, lat = (0.5 - u) * 2 * np.pi, (v - 0.5) * np.pi
    positions = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    positions[:, -1] = positions[:, 0]
    positions[0], positions[-1] = (0, 0, 1), (0, 0, -1)
    corner = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1)
    faces = np.stack([corner, corner + columns + 1, corner + columns + 2, corner + 1], axis=-1)
    uv = np.stack([u, v], axis=-1)
    return positions.reshape(-1, 3).astype(np.float32), uv.reshape(-1, 2).astype(np.float32), faces.astype(np.int32)


def _mesh(name: str) -> bpy.types.Mesh:
    positions, uv, faces = grid(COLUMNS, ROWS)
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(positions.tolist(), [], faces.tolist(), shade_flat=False)
    mesh.uv_layers.new(name=rays.UV_NAME, do_init=False).uv.foreach_set("vector", uv[faces.reshape(-1)].ravel())
    return mesh


def _store(tree: bpy.types.NodeTree, geometry: rays.Socket, name: str, value: rays.Socket, x: float) -> rays.Socket:
    node = rays.add(tree, "GeometryNodeStoreNamedAttribute", x, 0, {"Geometry": geometry, "Name": name}, domain="POINT")
    tree.links.new(value, next(s for s in node.inputs if s.name == "Value" and s.enabled))
    return node.outputs["Geometry"]


def _nodes(name: str, distance: bpy.types.Image | None, scale: float) -> bpy.types.NodeTree:
    """Create the modifier's node tree, with the defaults in its interface."""
    tree = bpy.data.node_groups.new(name, "GeometryNodeTree")
    tree.is_modifier = True
    interface = tree.interface
    interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    interface.new_socket("Geometry", in_out="INPUT", socket_type="NodeSocketGeometry")

    def number(name: str, kind: str, value: float, low: float, high: float, description: str) -> None:
        socket = interface.new_socket(name, in_out="INPUT", socket_type=kind)
        socket.default_value, socket.min_value, socket.max_value = value, low, high
        socket.description = description

    number("Scale", "NodeSocketFloat", scale, 0.0, 1e6, "Metres per unit of distance")
    if distance is not None:
        number("Amount", "NodeSocketFloat", 1.0, 0.0, 2.0, "0: a sphere of radius Scale. 1: the full distance")
    number("Detail", "NodeSocketInt", DETAIL, 0, 6, "Subdivisions: each doubles rows and columns")

    group = rays.add(tree, "NodeGroupInput", -1400, 0, {})
    fine = rays.add(
        tree, "GeometryNodeSubdivideMesh", -1200, 200,
        {"Mesh": group.outputs["Geometry"], "Level": group.outputs["Detail"]},
    )  # fmt: skip
    uv = rays.add(
        tree, "GeometryNodeInputNamedAttribute", -1400, -300, {"Name": rays.UV_NAME}, data_type="FLOAT_VECTOR"
    ).outputs["Attribute"]
    sampled, amount = None, None
    if distance is not None:
        texture = rays.add(
            tree, "GeometryNodeImageTexture", -800, -600,
            {"Image": distance, "Vector": rays.inside_rows(tree, uv, distance.size[1], -1200, -600)},
        )  # fmt: skip
        sampled, amount = texture.outputs["Color"], group.outputs["Amount"]
    ray = rays.direction(tree, uv, -1200, -300)
    position = rays.point(tree, ray, sampled, group.outputs["Scale"], amount, -400, -300)
    placed = rays.add(
        tree, "GeometryNodeSetPosition", 400, 0, {"Geometry": fine.outputs["Mesh"], "Position": position}
    ).outputs["Geometry"]
    placed = _store(tree, placed, rays.SCALE_ATTRIBUTE, group.outputs["Scale"], 600)
    if amount is not None:
        placed = _store(tree, placed, rays.AMOUNT_ATTRIBUTE, amount, 800)
    rays.add(tree, "NodeGroupOutput", 1000, 0, {"Geometry": placed})
    return tree


def levelled(turn: Matrix, floor: FloorPlane) -> tuple[Matrix, float]:
    """Turn a rotation from the panorama's frame to the world's, 3 × 3, so that the floor is level.

    Also return the angle that it was turned by in degrees: 0 where the floor is as good as level.
    """
    if tuple(floor[:3]) == (0, 0, 1):  # its tilt isn't known
        return turn, 0.0
    upright = (turn @ Vector(floor[:3])).rotation_difference(Vector((0, 0, 1)))
    tilt_deg = math.degrees(upright.angle)
    return (turn, 0.0) if tilt_deg < SMALLEST_TILT else (upright.to_matrix() @ turn, tilt_deg)


def depth_below(turn: Matrix, floor: FloorPlane) -> float:
    """Return the depth of the floor straight below, in its unit. `turn`: see `levelled`."""
    return floor[3] / max((turn @ Vector(floor[:3])).z, 0.1)


def floor_depth(distance: np.ndarray) -> float:
    """Return the depth of the floor in units of `distance` (H, W, 1): its median within 45° of straight down, which is
    robust to furniture and a tripod.
    """
    height, width, _ = distance.shape
    depth = -sphere.directions(height, width)[..., 2:]
    down = depth[:, 0, 0] >= np.sqrt(0.5)
    return float(np.median(distance[down] * depth[down]))


def create(name: str, distance: bpy.types.Image | None, scale: float, material: bpy.types.Material) -> bpy.types.Object:
    """Create a dome object, not linked to a collection.

    It is visible to the camera and receives shadows of other objects, but casts none, so that world and lamps light the
    inside.
    """
    mesh = _mesh(name)
    mesh.materials.append(material)
    dome = bpy.data.objects.new(name, mesh)
    modifier = dome.modifiers.new(MODIFIER_NAME, "NODES")
    modifier.node_group = _nodes(name, distance, scale)
    for ray in ("shadow", "diffuse", "glossy", "transmission", "volume_scatter"):
        setattr(dome, f"visible_{ray}", False)
    return dome


def controls(modifier: bpy.types.NodesModifier) -> dict[str, tuple[bpy.types.bpy_struct, str]]:
    """Return name → (data, property) of the modifier's inputs for `UILayout.prop`: Scale, Amount, Detail."""
    sockets = [
        item
        for item in modifier.node_group.interface.items_tree
        if item.item_type == "SOCKET" and item.in_out == "INPUT" and item.socket_type != "NodeSocketGeometry"
    ]
    if hasattr(modifier, "properties"):  # Blender 5.2
        inputs = modifier.properties.inputs
        return {socket.name: (getattr(inputs, socket.identifier), "value") for socket in sockets}
    return {socket.name: (modifier, f'["{socket.identifier}"]') for socket in sockets}
