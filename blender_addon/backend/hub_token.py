"""The Hugging Face access token, in the file that huggingface_hub reads and `hf auth login` writes."""

from __future__ import annotations

import os
from pathlib import Path

from ...shared.atomic_write import atomic_write
from ...shared.protocol.errors import SettingError


def path() -> Path:
    """Return huggingface_hub's HF_TOKEN_PATH (see "Environment variables" in its documentation)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return Path(os.environ.get("HF_TOKEN_PATH") or home / "token")


def save(token: str) -> Path:
    """Write the token, readable by its owner only. Raise SettingError if it is not a token, OutputError."""
    token = token.strip()
    if not token.startswith("hf_"):
        raise SettingError("This is not a Hugging Face access token.", 'Tokens start with "hf_".')
    target = path()
    atomic_write(target, token.encode(), mode=0o600, make_folders=True)
    return target
