"""Edit: change a panorama inside a mask, extend it, or vary all of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import numpy as np

from ..engines import EngineSettings, check_engine
from ..protocol.errors import SettingError
from ..protocol.messages import JobRequest
from .generate import FileFormat, GenerateSettings, check_format, check_generate


class EditRequest(JobRequest, kw_only=True):
    """Change a panorama inside the mask, once for each seed. Ends in a GenerateReply."""

    #: (H, W, 3) float32, W = 2·H exactly. Finite and not negative.
    panorama: np.ndarray
    #: As in PerceiveRequest; the results have the same encoding.
    encoding: Literal["linear", "srgb"]
    #: (H, W, 1) uint8, 0 where the panorama stays unchanged, bit for bit. None: all of it may change.
    mask: np.ndarray | None = None
    #: How much the original may change, in (0, 1]: 1 ignores it, 0.3 gives a variation.
    strength: float = 1.0
    #: Whether the masked area is missing: the panorama's pixels there are ignored.
    extend: bool = False
    #: Name of the panorama, stored in the recipe.
    source: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    #: Rotation of the panorama in Blender's world, stored in the recipe; no pixel depends on it. Euler angles (XYZ) in
    #: degrees.
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: Format of the reply's files; "png" only for an sRGB panorama.
    file_format: FileFormat = "exr"
    engine: EngineSettings
    settings: GenerateSettings


def check_strength(strength: float) -> None:
    """Raise SettingError unless it lies in (0, 1]."""
    if not 0 < strength <= 1:
        raise SettingError(f"The strength is {strength:g}.", "It must be greater than 0 and at most 1.")


def check(request: EditRequest) -> None:
    """Raise SettingError for invalid settings; the pixels are not checked."""
    check_engine(request.engine, "edit", "outpaint")
    check_generate(request.settings)
    check_strength(request.strength)
    check_format(request.file_format, linear=request.encoding == "linear")
    if request.settings.method == "omnix":
        raise SettingError("OmniX can't edit a panorama.", "Choose the method dit360 or lora.")
    if request.mask is not None and not request.settings.prompt.strip():
        raise SettingError("A masked edit needs a prompt.", "Describe what belongs inside the mask.")
