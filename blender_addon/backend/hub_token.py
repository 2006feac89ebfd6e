"""The Hugging Face access token, kept where huggingface_hub looks for it (`hf auth login` writes the same file)."""

from __future__ import annotations

import os
from pathlib import Path

from ...shared.protocol.errors import OutputError, SettingError


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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(token)
    except OSError as error:
        raise OutputError(f"{target} can't be written: {error.strerror}.", "Free the path, or set HF_TOKEN.") from error
    return target
