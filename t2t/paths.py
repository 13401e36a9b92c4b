"""Paths that a user gives: what cannot be one of this machine is refused at once, in one way, whatever the option.

`check` is for any path, `check_directory` for one that is a directory or will be made, `check_output` for a file to write. `LocalPath` declares a field of
a configuration or an option of a command to be a path; then what the text alone shows to be wrong is refused with the limits of the other fields.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from t2t.errors import UserError
from t2t.limits import OutOfLimits

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")
_MOUNTED = {"gs": "with gcsfuse", "s3": "with mountpoint-s3"}
_NAME, _WHOLE = 255, 4095
"""Bytes that a name in a path, and the path as a whole, may have on Linux."""


@dataclass(frozen=True)
class Local:
    """The limit of a text that is a path: see `t2t.limits.Limit`."""

    def problem(self, value: Any, base: type, default: Any) -> str | None:
        """Return why a text cannot be a path of this machine, or None. Looks at the text alone."""
        return misspelled(value) if isinstance(value, str) else None


LocalPath = Annotated[str, Local()]
"""A path of this machine."""


def misspelled(path: str) -> str | None:
    """Return why a text cannot be a path of this machine ("is ..."), or None. Touches no disk."""
    if not path:
        return "is empty. Nearest: . (the current directory)."
    if scheme := _SCHEME.match(path):
        return f"is a URL, and only paths of this machine are read and written. {_instead(scheme[1].lower(), path[scheme.end() :])}"
    if control := next((letter for letter in path if ord(letter) < 32 or ord(letter) == 127), None):
        better = "".join(letter for letter in path if ord(letter) >= 32 and ord(letter) != 127)
        return f"has the control character {control!r} in it. Nearest: {shown_path(better) or '.'}."
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "has a character that no file name can have (a lone surrogate)."
    if longest := max((part for part in encoded.split(b"/") if len(part) > _NAME), key=len, default=None):
        return f"has a name of {len(longest)} bytes in it; names have at most {_NAME}."
    if len(encoded) > _WHOLE:
        return f"has {len(encoded)} bytes; paths have at most {_WHOLE}."
    return None


def _instead(scheme: str, rest: str) -> str:
    if scheme == "file":
        return f"Nearest: {shown_path(f'/{rest}')}."
    if scheme in ("http", "https", "ftp"):
        return f"Download it first. Nearest: {shown_path(rest.rpartition('/')[2] or '.')}."
    return f"Mount the bucket ({_MOUNTED.get(scheme, 'with FUSE')}). Nearest: {shown_path(f'/mnt/{rest}')}."


def check(path: str | os.PathLike[str], source: str) -> Path:
    """Return a path that the system can look at: there or not, but no URL, not too long, no loop of links, no file where a directory must be.

    source: the option, or what the path came from, for errors.
    Raises UserError.
    """
    text = os.fspath(path)
    if why := misspelled(text):
        raise OutOfLimits("path", text, why, source)
    try:
        os.stat(text)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UserError(f"{shown_path(text)} ({source}): its links form a loop") from None
        if error.errno == errno.ENOTDIR:
            raise UserError(f"{shown_path(text)} ({source}): {_file_above(text)} is a file, not a directory") from None
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{shown_path(text)} ({source}): the name is too long") from None
    return Path(text)


def check_directory(path: str | os.PathLike[str], source: str) -> Path:
    """Return a path that is a directory, or can be made one. Raises UserError."""
    checked = check(path, source)
    if checked.exists() and not checked.is_dir():
        raise UserError(f"{shown_path(str(path))} ({source}) is a file, not a directory")
    return checked


def check_output(path: str | os.PathLike[str], source: str) -> Path:
    """Return the path of a file that can be written: its directory is there and may be written to. Raises UserError."""
    checked = check(path, source)
    said = shown_path(str(path))
    if not checked.parent.is_dir():
        raise UserError(f"{said} ({source}): there is no directory {shown_path(str(checked.parent))}.")
    if checked.is_dir():
        raise UserError(f"{said} ({source}) is a directory.")
    if not os.access(checked if checked.exists() else checked.parent, os.W_OK):
        raise UserError(f"{said} ({source}): the directory {shown_path(str(checked.parent))} cannot be written to.")
    return checked


def shown_path(path: str) -> str:
    """Return a path as an error shows it: as it is, its middle left out where it is very long."""
    return path if len(path) <= 200 else f"{path[:60]}...{path[-60:]}"


def _file_above(path: str) -> str:
    return shown_path(str(next((above for above in Path(path).parents if above.is_file()), Path(path).parent)))
