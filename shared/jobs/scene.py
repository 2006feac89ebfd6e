"""Scene: build a mesh with textures from maps of a panorama."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from ..protocol.errors import SettingError
from ..protocol.messages import JobReply, JobRequest
from .checks import check_range

MIN_TRIANGLES, MAX_TRIANGLES = 1_000, 5_000_000
DEFAULT_TRIANGLES = 300_000
#: Largest width of textures in pixels; that of a panorama of 16384 is shrunk to it.
MAX_TEXTURE_WIDTH = 8192
DEFAULT_TEXTURE_WIDTH = 4096
MIN_CAMERA_HEIGHT_M, MAX_CAMERA_HEIGHT_M = 0.01, 1000.0


class SceneSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a mesh is built."""

    #: Height of the panorama's camera over the floor in metres: the scale of the scene.
    camera_height_m: float = 1.6
    #: Metres per unit of distance. None: from the camera's height over the floor found in the maps.
    scale: float | None = None
    #: The mesh has about this many triangles at most, where its outlines allow it.
    max_triangles: int = DEFAULT_TRIANGLES
    #: Width of the textures in pixels, at most that of the panorama or the maps.
    texture_width: int = DEFAULT_TEXTURE_WIDTH


class SceneRequest(JobRequest, kw_only=True):
    """Build a mesh from maps. Ends in a SceneReply."""

    #: File name → content of the image file, (N,) uint8: the maps of a result folder, or a user's own under the same
    #: names (backend/io/maps.py).
    files: dict[Annotated[str, msgspec.Meta(max_length=255)], np.ndarray]
    #: (H, W, 3) float32, W = 2·H: sharpens the textures, and tells lights. None: the panorama among `files`, if any.
    panorama: np.ndarray | None = None
    #: As in PerceiveRequest; of `panorama`.
    encoding: Literal["linear", "srgb"] = "srgb"
    settings: SceneSettings = SceneSettings()


class Texture(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A texture of a mesh: an image file."""

    #: File name, "albedo.png": the type of the file, and what it shows (a name of `maps.MAPS`, or "emission").
    filename: str
    colorspace: Literal["sRGB", "Non-Color", "Linear Rec.709"]
    #: (N,) uint8.
    data: np.ndarray


class Part(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a mesh with a material of its own."""

    #: "visible": what the panorama shows. "hidden": what continues behind its edges; there may be two of these.
    name: Literal["visible", "hidden"]
    #: Number of triangles; the parts follow each other in the mesh.
    triangles: int
    #: Map name → texture.
    textures: dict[str, Texture]


class SceneInfo(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a mesh was made."""

    #: Metres per unit of the distance map.
    scale: float
    #: Whether the maps show a floor, which the scale follows from.
    has_floor: bool
    #: Share of the panorama, in [0, 1], that is open sky.
    sky: float
    #: Noise of the distance map, relative to the distance.
    noise: float
    #: Messages for the user.
    notices: tuple[str, ...]
    seconds: float


class SceneReply(JobReply, kw_only=True):
    """A triangle mesh in the panorama's frame (shared/imaging/sphere.py), its camera at the origin."""

    #: (V, 3) float32 in metres.
    positions: np.ndarray
    #: (T, 3) uint32, anticlockwise seen from the origin.
    triangles: np.ndarray
    #: Equirectangular texture coordinates of the triangles' corners, (T, 3, 2) float32: u to the right, v up; u is
    #: beyond 1 in triangles across the seam.
    uv: np.ndarray
    parts: tuple[Part, ...]
    #: Linear light of the whole sky, also where the camera doesn't see it: what lights the mesh from outside. None
    #: without a panorama.
    environment: Texture | None = None
    info: SceneInfo

    @property
    def compute_seconds(self) -> float:
        return self.info.seconds


def check_scene(settings: SceneSettings) -> None:
    """Raise SettingError for anything out of range."""
    check_range("The camera height", settings.camera_height_m, MIN_CAMERA_HEIGHT_M, MAX_CAMERA_HEIGHT_M, " m")
    check_range("The scale", settings.scale, 1e-6, 1e6)
    check_range("The number of triangles", settings.max_triangles, MIN_TRIANGLES, MAX_TRIANGLES)
    check_range("The width of textures", settings.texture_width, 128, MAX_TEXTURE_WIDTH)


def check(request: SceneRequest) -> None:
    """Raise SettingError for invalid settings, or no files; the files are not checked."""
    check_scene(request.settings)
    if not request.files:
        raise SettingError("There is no map to build from.", "Give at least a distance map.")
