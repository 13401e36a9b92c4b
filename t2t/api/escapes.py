"""Escape control characters in data, predictions and file names. A terminal would interpret them as commands."""

from __future__ import annotations

import re

_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and line feed, direction marks, and surrogates."""


def visible(text: str) -> str:
    """Return the text with its control characters as escapes: "\\x1b"."""
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
