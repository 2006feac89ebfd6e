"""Scene: build a mesh with textures from maps of a panorama."""

from __future__ import annotations

from collections.abc import Iterable
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


#: Rows of a rotation matrix.
Row = tuple[float, float, float]
Rotation = tuple[Row, Row, Row]
IDENTITY: Rotation = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


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
    #: Whether the scene is turned so that its floor is level, where its tilt is certain.
    level_floor: bool = True
    #: Whether the scene is turned about Z so that most walls stand along the axes.
    align_walls: bool = False
    #: Whether albedo and emission are changed so that the scene, under its own light, looks like the panorama: for the
    #: albedo of a model, or none; the true one stays.
    match_panorama: bool = False
    #: Each thing that the semantic map shows, as a chair, has a closed mesh of its own.
    objects: bool = False


class SceneRequest(JobRequest, kw_only=True):
    """Build a mesh from maps. Ends in a SceneReply."""

    #: File name → content of the image file, (N,) uint8: the maps of a result folder, or a user's own under the same
    #: names (backend/io/maps.py).
    files: dict[Annotated[str, msgspec.Meta(max_length=255)], np.ndarray]
    #: (H, W, 3) float32, W = 2·H: sharpens the textures, and tells lights. None: the panorama among `files`, if any.
    panorama: np.ndarray | None = None
    #: As in PerceiveRequest; of `panorama`.
    encoding: Literal["linear", "srgb"] = "srgb"
    #: As in PerceiveSettings; of `panorama`.
    repair: bool = False
    #: The panorama's orientation in the world, with Z up.
    world_from_panorama: Rotation = IDENTITY
    #: (N, 4) float32: unit directions in the panorama's frame and the true distances along them in metres, where the
    #: panorama is a render: the scale of the scene, unless one is set.
    known_distances: np.ndarray | None = None
    settings: SceneSettings = SceneSettings()


class Texture(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A texture of a mesh: an image file."""

    #: File name, "albedo.png": the type of the file, and what it shows: a name of `maps.MAPS`; "emission"; or
    #: "confidence", how far the normal map agrees with the mesh, from 0 to 1.
    filename: str
    colorspace: Literal["sRGB", "Non-Color", "Linear Rec.709"]
    #: (N,) uint8.
    data: np.ndarray


class Part(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a mesh with a material of its own."""

    #: "visible": what the panorama shows. "hidden": what continues behind its edges and things; there may be three of
    #: these. "back": backs of things.
    name: Literal["visible", "hidden", "back"]
    #: Number of triangles; the parts follow each other in the mesh.
    triangles: int
    #: Map name → texture. A back has none: it shows those of "visible", but for normals, confidence and emission. The
    #: emission of what is hidden is a guess, for the camera only.
    textures: dict[str, Texture]


class Thing(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A thing with a closed mesh of its own: some triangles of the parts "visible" and "back"."""

    #: Its class, numbered where there are several: "chair", "chair 2".
    name: str
    #: Numbers of its triangles in both parts. The things follow each other in both, in "visible" after the rest.
    visible: int
    back: int
    #: Middle of its base in metres.
    origin: tuple[float, float, float]


class SceneInfo(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How a mesh was made."""

    #: Metres per unit of the distance map.
    scale: float
    #: Whether the maps show a floor.
    has_floor: bool
    #: Height of the panorama's place over the floor in metres; without a floor, that of the settings.
    camera_height_m: float
    #: The orientation that the scene is to have, level and aligned where that was asked for.
    world_from_panorama: Rotation
    #: Mean agreement of the normal map with the mesh, in [0, 1]; None without a normal map.
    normal_confidence: float | None
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
    things: tuple[Thing, ...] = ()
    #: Linear light of the whole sky, also where the camera doesn't see it: what lights the mesh from outside. None
    #: without a panorama.
    environment: Texture | None = None
    info: SceneInfo

    @property
    def compute_seconds(self) -> float:
        return self.info.seconds

    def part_of_triangles(self) -> np.ndarray:
        """Return the index of the part of each triangle, (T,)."""
        return np.repeat(np.arange(len(self.parts)), [part.triangles for part in self.parts])

    def thing_of_triangles(self) -> np.ndarray:
        """Return the index of the thing of each triangle, −1 for the rest, (T,)."""
        thing = np.full(len(self.triangles), -1)
        end = 0
        for part in self.parts:
            end += part.triangles
            if part.name in ("visible", "back"):
                counts = [getattr(one, part.name) for one in self.things]
                thing[end - sum(counts) : end] = np.repeat(np.arange(len(counts)), counts)
        return thing


def rotation_rows(matrix: Iterable[Iterable[float]]) -> Rotation:
    """Return a rotation matrix, 3 × 3, as it travels."""
    first, second, third = ((float(x), float(y), float(z)) for x, y, z in matrix)
    return first, second, third


def check_scene(settings: SceneSettings) -> None:
    """Raise SettingError for anything out of range."""
    check_range("The camera height", settings.camera_height_m, MIN_CAMERA_HEIGHT_M, MAX_CAMERA_HEIGHT_M, " m")
    check_scale(settings.scale)
    check_range("The number of triangles", settings.max_triangles, MIN_TRIANGLES, MAX_TRIANGLES)
    check_range("The width of textures", settings.texture_width, 128, MAX_TEXTURE_WIDTH)


def check_scale(metres_per_unit: float | None) -> None:
    """Raise SettingError for a scale out of range. None, for that of the camera's height, passes."""
    check_range("The scale", metres_per_unit, 1e-6, 1e6)


def check(request: SceneRequest) -> None:
    """Raise SettingError for invalid settings or places, or no files; the files are not checked."""
    check_scene(request.settings)
    turn = np.array(request.world_from_panorama)
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
        raise SettingError("The panorama's orientation is not a rotation.", "Remove scale and shear from its pose.")
    known = request.known_distances
    if known is not None and (known.ndim != 2 or known.shape[1] != 4 or not np.isfinite(known).all()):
        raise SettingError("The known distances are not finite rows of four numbers.", "Render the panorama again.")
    if not request.files:
        raise SettingError("There is no map to build from.", "Give at least a distance map.")
