"""Text from files and other programs, made fit to be shown, stored and sent: one line, in the order it is read."""

from __future__ import annotations

import unicodedata

#: Categories of characters that break lines or control terminals, and the characters that reverse what is read.
_CONTROL = ("Cc", "Cs", "Zl", "Zp")
_REVERSING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def plain(text: str) -> str:
    """Return text with � in place of control characters, of those that reverse text, and of what isn't Unicode."""
    return "".join("�" if unicodedata.category(one) in _CONTROL or one in _REVERSING else one for one in text)
