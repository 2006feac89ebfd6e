"""The Hugging Face access token, kept where huggingface_hub looks for it (`hf auth login` writes the same file)."""

from __future__ import annotations

import os
from pathlib import Path

from ...shared.atomic_write import atomic_write
from ...shared.protocol.errors import SettingError


def path() -> Path:
    """huggingface_hub's HF_TOKEN_PATH (its documentation, "Environment variables")."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    return Path(os.environ.get("HF_TOKEN_PATH") or home / "token")


def save(token: str) -> Path:
    """Write the token, readable by its owner only. Raises SettingError for what is none, OutputError."""
    token = token.strip()
    if not token.startswith("hf_"):
        raise SettingError("That is no Hugging Face access token.", 'It starts with "hf_".')
    target = path()
    atomic_write(target, token.encode(), mode=0o600, make_folders=True)
    return target
