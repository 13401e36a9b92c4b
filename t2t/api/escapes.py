"""Control characters in data, predictions and file names, which would be commands to a terminal."""

from __future__ import annotations

import re

_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but tab and line feed, what turns the direction of text, and halves of characters."""


def visible(text: str) -> str:
    """Return text with its control characters written as escapes, "\\x1b"."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
