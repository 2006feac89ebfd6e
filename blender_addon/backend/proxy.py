"""The proxy of the preferences, as variables of the programs that download: pip, uv and the backend."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from ...shared.protocol.errors import SettingError


def variables(address: str) -> dict[str, str]:
    """Return the variables that name the proxy at `address`; none for "", where the system's counts.

    Raise SettingError if it is not the address of a proxy.
    """
    if not address:
        return {}
    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # of a port that is no number
        valid = False
    if not valid:
        raise SettingError(
            "The preferences' Proxy is not the address of one.",  # which isn't shown, as it may have a password in it
            "Write it as http://NAME:PORT, or leave it empty for the system's.",
        )
    names = ["HTTP_PROXY", "HTTPS_PROXY", "PIP_PROXY"]
    if os.name != "nt":  # where programs prefer the names in small letters; on Windows both are the same
        names += ["http_proxy", "https_proxy"]
    return dict.fromkeys(names, address)
