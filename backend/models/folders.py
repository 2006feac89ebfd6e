"""Where models are on this computer."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from ...shared.protocol.errors import WeightsError


def expanded(text: str | Path) -> Path:
    """Return a path with "~" expanded; where there is no such user, as it is: then it doesn't exist."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def models_folder() -> Path:
    """Return the default folder of downloaded models: PANOFORM_MODELS, or `models` in the user's data folder.

    Raise WeightsError if PANOFORM_MODELS is in the home of an unknown user: it would be made in the working folder.
    """
    given = os.environ.get("PANOFORM_MODELS")
    if not given:
        return platformdirs.user_data_path("panoform", appauthor=False) / "models"
    path = expanded(given)
    if path == Path(given) and given.startswith("~"):
        raise WeightsError(f"PANOFORM_MODELS is {given}, but there is no such user.", "Set it to another folder.")
    return path
