"""Texture: six views of a mesh, from a reference picture or a prompt, baked into one texture."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from ..engines import MAX_GUIDANCE, MAX_SEED, MAX_STEPS, EngineSettings, check_engine
from ..imaging.overlap import overlap
from ..protocol.errors import InputError, SettingError
from ..protocol.messages import JobReply, JobRequest
from .checks import check_range
from .generate import MAX_PROMPT

#: Names of the views in their order. The object faces the first; "right" is at its own left.
VIEWS = ("front", "right", "back", "left", "top", "bottom")
MAX_TRIANGLES = 1_000_000
MIN_SIZE, MAX_SIZE, DEFAULT_SIZE = 64, 4096, 2048
#: Side of the views in pixels, and what it is a multiple of.
MIN_VIEW, MAX_VIEW, VIEW_MULTIPLE = 64, 1024, 64
#: Largest side of the reference picture in pixels.
MAX_REFERENCE = 8192
#: Upscaling of the views by 2: none; of pixels; of latents, by Stable Diffusion's latent upscaler; by a file's model.
UPSCALES = ("off", "bicubic", "latent", "file")
#: Longest path of an upscaler.
MAX_PATH = 4096
#: Horizontal axis of the mesh's frame that its front faces.
Front = Literal["-Y", "+Y", "-X", "+X"]
FRONTS: tuple[Front, ...] = ("-Y", "+Y", "-X", "+X")
#: How far texture coordinates may lie outside of [0, 1].
_UV_ERROR = 1e-3
#: Least area of the UV map's triangles, and largest share of the mesh's surface that has none there.
_MIN_UV_AREA, _MAX_UNMAPPED = 1e-3, 0.01
#: Largest share of the UV map that several triangles may cover: islands that touch have common texels.
_MAX_OVERLAP = 0.005
#: Size of the texture at which overlaps are counted, in pixels.
_OVERLAP_SIZE = 1024


class TextureSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How views are drawn and baked. None: the engine's default."""

    #: What the object is; added to the reference picture, or instead of it.
    prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] = ""
    negative_prompt: Annotated[str, msgspec.Meta(max_length=MAX_PROMPT)] | None = None
    num_inference_steps: int | None = None
    #: Classifier-free guidance; at most 1: none, at half the cost.
    guidance_scale: float | None = None
    #: Weights of the attention to other views, of that to the reference picture, and of the control images.
    mv_scale: float = 1.0
    reference_scale: float = 1.0
    control_scale: float = 1.0
    #: Share of the steps, from the first on, that see the control images.
    control_factor: float = 1.0
    #: "ddpm" (adds noise in each step) or "ddim".
    scheduler: Literal["ddpm", "ddim"] = "ddpm"
    seed: int = 0
    #: Side of the views in pixels, before upscaling.
    view_size: int | None = None
    #: One of UPSCALES.
    upscale: str = "off"
    #: With "file": the .safetensors file of an image upscaler, on the backend's computer; in a record, its name.
    upscaler: Annotated[str, msgspec.Meta(max_length=MAX_PATH)] = ""
    #: Side of the texture in pixels.
    texture_size: int = DEFAULT_SIZE
    front: Front = "-Y"


class TextureRequest(JobRequest, kw_only=True):
    """Texture a mesh: draw six views of it, and bake them. Ends in a TextureReply.

    All arrays have T triangles. The frame is any with Z up.
    """

    #: Corners of the triangles, (T, 3, 3) float32, anticlockwise seen from outside.
    corners: np.ndarray
    #: Normals of the corners, (T, 3, 3) float32, of any length but 0.
    normals: np.ndarray
    #: Texture coordinates of the corners, (T, 3, 2) float32 in [0, 1]: u to the right, v up.
    uv: np.ndarray
    #: (T,) uint8: 1 for triangles that get the texture; the others only hide them. None: all.
    chosen: np.ndarray | None = None
    #: (H, W, 4) uint8, sRGB with alpha (not premultiplied): a picture of the object. None: the prompt alone.
    reference: np.ndarray | None = None
    #: The picture's name, stored in the record ("chair.png").
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    #: View name → content of its image file, (bytes,) uint8: views of this mesh to be baked as they are, all of one
    #: square size, instead of drawing them.
    views: dict[Annotated[str, msgspec.Meta(max_length=16)], np.ndarray] | None = None
    engine: EngineSettings
    settings: TextureSettings = TextureSettings()


class ViewsRequest(JobRequest, kw_only=True):
    """Draw six views from control images, without a mesh. Ends in a ViewsReply."""

    #: View name → control image, (H, H, 6) float32 in [0, 1]: position + 0.5 and normal / 2 + 0.5 in the frame of the
    #: cameras (backend/texturing/cameras.py), 0.5 without the object. H is a multiple of 64.
    control: dict[Annotated[str, msgspec.Meta(max_length=16)], np.ndarray]
    #: As in TextureRequest.
    reference: np.ndarray | None = None
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    engine: EngineSettings
    #: Those about baking are not used.
    settings: TextureSettings = TextureSettings()


class TextureInfo(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Record of views and a texture: everything needed to make them again."""

    panoform: str
    #: "ig2mv": views drawn from a reference picture. "tg2mv": from a prompt. "projection": the picture, projected from
    #: the front. "": the views were given.
    task: Literal["ig2mv", "tg2mv", "projection", ""]
    #: Hub ids are pinned to the revisions that were used.
    engine: EngineSettings
    #: Base model and adapter, as named in the settings; "" where there are none. "built in": the model that guesses
    #: what a projected picture doesn't show.
    model: str
    adapter: str
    #: Weights on this computer: name → SHA-256 (backend/models/records.py).
    weights: dict[str, str] = {}
    #: Without open defaults, where the views were drawn.
    settings: TextureSettings
    #: The reference picture: name and SHA-256 of its pixels.
    source: str
    source_sha256: str
    #: Side of the views in pixels.
    view_size: int
    #: Share of the texture's area, in [0, 1], that a view shows; 1 without a texture.
    seen: float
    #: Messages for the user.
    notices: tuple[str, ...]
    device: str
    #: Precision in which the views were drawn.
    dtype: str
    seconds: float
    #: Software versions: python, torch, diffusers …
    versions: dict[str, str]


class ViewsReply(JobReply, kw_only=True):
    """Six views."""

    #: View name → content of a PNG file, (bytes,) uint8, sRGB.
    views: dict[str, np.ndarray]
    info: TextureInfo

    @property
    def compute_seconds(self) -> float:
        return self.info.seconds


class TextureReply(JobReply, kw_only=True):
    """A texture, and the views that it is baked from."""

    #: Content of a PNG file, (bytes,) uint8, sRGB: base colour, with the light of the views in it.
    texture: np.ndarray
    #: As in ViewsReply; as given, where they were.
    views: dict[str, np.ndarray]
    info: TextureInfo

    @property
    def compute_seconds(self) -> float:
        return self.info.seconds


def check_texture(settings: TextureSettings) -> None:
    """Raise SettingError for anything out of range, including lengths that the wire format would reject."""
    for name, text in (("The prompt", settings.prompt), ("The negative prompt", settings.negative_prompt or "")):
        if len(text) > MAX_PROMPT:
            raise SettingError(f"{name} is too long: {len(text)} characters.", f"Give at most {MAX_PROMPT}.")
    check_range("The number of steps", settings.num_inference_steps, 1, MAX_STEPS)
    if len(settings.upscaler) > MAX_PATH:
        raise SettingError(f"The upscaler's path is {len(settings.upscaler)} characters long.", f"At most {MAX_PATH}.")
    if settings.upscale == "file" and not settings.upscaler:
        raise SettingError("There is no upscaler.", "Choose its .safetensors file, or another way to upscale.")
    check_range("Guidance", settings.guidance_scale, 0, MAX_GUIDANCE)
    for name in ("mv_scale", "reference_scale", "control_scale"):
        check_range(f"The {name}", getattr(settings, name), 0, 2)
    check_range("The control_factor", settings.control_factor, 0, 1)
    check_range("The seed", settings.seed, 0, MAX_SEED)
    check_range("The texture's size", settings.texture_size, MIN_SIZE, MAX_SIZE, " px")
    check_range("The size of the views", settings.view_size, MIN_VIEW, MAX_VIEW, " px")
    if settings.view_size is not None and settings.view_size % VIEW_MULTIPLE:
        lower = settings.view_size // VIEW_MULTIPLE * VIEW_MULTIPLE
        raise SettingError(
            f"The size of the views is {settings.view_size} px, not a multiple of {VIEW_MULTIPLE}.",
            f"Use {lower} or {lower + VIEW_MULTIPLE}.",
        )
    for name, value, choices in (
        ("scheduler", settings.scheduler, ("ddpm", "ddim")),
        ("way to upscale", settings.upscale, UPSCALES),
        ("front", settings.front, FRONTS),
    ):
        if value not in choices:
            raise SettingError(f"There is no {name} called {value!r}.", f"Choose one of {', '.join(choices)}.")


def check_count(count: int) -> None:
    """Raise InputError for a mesh with no triangles, or with too many."""
    if not count:
        raise InputError("The mesh has no faces.", "Choose a mesh with faces.")
    if count > MAX_TRIANGLES:
        raise InputError(
            f"The mesh has {count:,} triangles; at most {MAX_TRIANGLES:,} can be textured.",
            "Reduce it, for example by a Decimate modifier.",
        )


def check_finite(name: str, values: np.ndarray) -> None:
    """Raise InputError for NaN or infinite values of a mesh."""
    if not np.isfinite(values).all():
        raise InputError(
            f"The mesh's {name} have values that are not finite.", "Check its modifiers; remove bad vertices."
        )


def check_mesh(request: TextureRequest) -> None:
    """Raise InputError for a mesh without triangles, area or texture coordinates, or with NaN, or with too many."""
    count = len(request.corners)
    check_count(count)
    shapes: dict[str, tuple[int, ...]] = {"corners": (count, 3, 3), "normals": (count, 3, 3), "uv": (count, 3, 2)}
    if request.chosen is not None:
        shapes["chosen"] = (count,)
    for name, shape in shapes.items():
        values = getattr(request, name)
        if values.shape != shape:
            raise InputError(f"The mesh's {name} are {values.shape} instead of {shape}.")
        check_finite(name, values)
    if request.chosen is not None and not request.chosen.any():
        raise InputError("No face is chosen.", "Choose the faces that get the texture.")
    check_area(request.corners)
    chosen = slice(None) if request.chosen is None else request.chosen > 0
    check_uv(request.uv[chosen], request.corners[chosen])


def check_area(corners: np.ndarray) -> None:
    """Raise InputError where triangles (T, 3, 3) are all points or lines."""
    points = corners.reshape(-1, 3)
    if not (points.max(axis=0) - points.min(axis=0)).max() > 0:
        raise InputError("The mesh has no size: all its points are one.", "Check its scale.")
    if not _areas(corners).any():
        raise InputError("The mesh has no area: all its faces are lines.", "Give a mesh with surfaces.")


def _areas(points: np.ndarray) -> np.ndarray:
    """Return the areas (T,) of triangles (T, 3, 2 or 3)."""
    sides = np.diff(points.astype(np.float64), axis=1)  # (T, 2, 2 or 3)
    sides = np.pad(sides, ((0, 0), (0, 0), (0, 3 - sides.shape[-1])))
    return np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=-1) / 2


def check_uv(uv: np.ndarray, corners: np.ndarray) -> None:
    """Raise InputError where texture coordinates (T, 3, 2) of corners (T, 3, 3) are outside of [0, 1], or triangles
    have no area in them."""
    placed, surface = _areas(uv), _areas(corners)
    if not placed.any():
        raise InputError("The mesh has no UV map, or an empty one.", "Unwrap it: Smart UV Project.")
    if uv.min() < -_UV_ERROR or uv.max() > 1 + _UV_ERROR:
        raise InputError(
            f"The UV map reaches from {uv.min():.3g} to {uv.max():.3g}, beyond 0 to 1 (tiles, or UDIMs).",
            "Use a UV map within 0 to 1, for example by Smart UV Project.",
        )
    if placed.sum() < _MIN_UV_AREA:
        raise InputError(
            f"The UV map fills only {100 * placed.sum():.2g} % of the texture.", "Unwrap it again: Smart UV Project."
        )
    unmapped = surface[placed == 0].sum() / max(surface.sum(), 1e-300)
    if unmapped > _MAX_UNMAPPED:
        raise InputError(
            f"{100 * unmapped:.0f} % of the surface has no place in the UV map.", "Unwrap it again: Smart UV Project."
        )


def check_overlap(uv: np.ndarray) -> None:
    """Raise InputError where triangles share too much of the UV map; coordinates (T, 3, 2) in [0, 1]."""
    points = np.stack([uv[..., 0], 1 - uv[..., 1]], axis=-1) * _OVERLAP_SIZE
    share = overlap(points, _OVERLAP_SIZE, _OVERLAP_SIZE)
    if share > _MAX_OVERLAP:
        raise InputError(
            f"{100 * share:.0f} % of the UV map is used by more than one face, which would get the same picture.",
            "Use a UV map without overlaps: Smart UV Project, for example; apply a Mirror modifier first.",
        )


def check_reference(reference: np.ndarray | None, prompt: str) -> None:
    """Raise InputError for a picture of the wrong shape or size, SettingError without picture and prompt."""
    if reference is None:
        if not prompt.strip():
            raise SettingError("There is neither a reference picture nor a prompt.", "Give one of them.")
        return
    if reference.ndim != 3 or reference.shape[2] != 4 or reference.dtype != np.uint8:
        raise InputError(
            f"The reference picture is {reference.shape} {reference.dtype} instead of (height, width, 4) uint8."
        )
    height, width = reference.shape[:2]
    if min(height, width) < 16 or max(height, width) > MAX_REFERENCE:
        raise InputError(
            f"The reference picture is {width} × {height} px.", f"Give one of 16 to {MAX_REFERENCE} px per side."
        )


def check_enlarging(engine: EngineSettings, settings: TextureSettings) -> None:
    """Raise SettingError where views are to be enlarged that the engine doesn't draw."""
    if settings.upscale != "off" and "draw_views" not in engine.spec.capabilities:
        raise SettingError(
            f"The engine {engine.engine} draws no views that could be enlarged.",
            "Don't enlarge them (--upscale off), or choose a model.",
        )


def check_names(views: dict[str, np.ndarray], what: str) -> None:
    """Raise InputError unless there is one for each of the six views, and no other."""
    missing = [name for name in VIEWS if name not in views]
    if missing:
        raise InputError(f"There is no {what} of {', '.join(missing)}.", f"Six are needed: {', '.join(VIEWS)}.")
    if len(views) > len(VIEWS):
        raise InputError(
            f"There is no view called {next(name for name in views if name not in VIEWS)}.",
            f"The views are {', '.join(VIEWS)}.",
        )


def check(request: TextureRequest) -> None:
    """Raise SettingError for invalid settings, InputError for an invalid mesh, picture or number of views."""
    check_texture(request.settings)
    check_mesh(request)
    if request.views is not None:
        check_names(request.views, "view")
        return
    check_reference(request.reference, request.settings.prompt)
    check_engine(request.engine, "texture_from_prompt" if request.reference is None else "texture")
    check_enlarging(request.engine, request.settings)


def check_views(request: ViewsRequest) -> None:
    """Raise SettingError for invalid settings, InputError for invalid control images or picture."""
    check_texture(request.settings)
    check_engine(request.engine, "draw_views")
    check_names(request.control, "control image")
    check_reference(request.reference, request.settings.prompt)
    side = len(request.control[VIEWS[0]])
    for name, image in request.control.items():
        if image.shape != (side, side, 6):
            raise InputError(f"The control image of {name} is {image.shape} instead of {(side, side, 6)}.")
        if not (image.min() >= 0 and image.max() <= 1):
            raise InputError(f"The control image of {name} has values outside 0 to 1.", "Store position + 0.5.")
    check_texture(msgspec.structs.replace(request.settings, view_size=side))
