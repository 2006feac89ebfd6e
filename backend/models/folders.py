"""Where models are on this computer."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def models_folder() -> Path:
    """Return the default folder of downloaded models: PANOFORM_MODELS, or `models` in the user's data folder."""
    given = os.environ.get("PANOFORM_MODELS")
    return Path(given).expanduser() if given else platformdirs.user_data_path("panoform", appauthor=False) / "models"
