"""Names that no file can have on some system, for names that are made from texts of users."""

from __future__ import annotations

import re

#: Devices of Windows, whatever their suffix.
#: Source: https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d¹²³])", re.IGNORECASE)


def is_device(name: str) -> bool:
    """Return whether Windows takes a file's name, with or without a suffix, for a device."""
    return _DEVICE.fullmatch(name.split(".")[0].strip()) is not None
