"""Check paths from the user early, with the same errors for all options.

`check` is for any path, `check_directory` for an existing or new directory, `check_output` for a file to write. `LocalPath` is the type of a
configuration field or a command option with a path. Such a text is checked together with the limits of other fields, without access to the disk.
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
"""Maximum bytes of a name in a path, and of the whole path, on Linux."""


@dataclass(frozen=True)
class Local:
    """Limit for local paths, see `t2t.limits.Limit`."""

    def problem(self, value: Any, base: type, default: Any) -> str | None:
        """Return why a text is not a valid local path, or None. Does not access the disk."""
        return misspelled(value) if isinstance(value, str) else None


LocalPath = Annotated[str, Local()]
"""A local path."""


def misspelled(path: str) -> str | None:
    """Return why a text is not a valid local path ("is ..."), or None. Does not access the disk."""
    if not path:
        return "is empty. Nearest: . (the current directory)."
    if scheme := _SCHEME.match(path):
        return f"is a URL, but only local paths are supported. {_instead(scheme[1].lower(), path[scheme.end() :])}"
    if control := next((letter for letter in path if ord(letter) < 32 or ord(letter) == 127), None):
        cleaned = "".join(letter for letter in path if ord(letter) >= 32 and ord(letter) != 127)
        return f"contains the control character {control!r}. Nearest: {shown_path(cleaned) or '.'}."
    try:
        encoded = os.fsencode(path)
    except UnicodeEncodeError:
        return "contains a character that file names cannot have (a lone surrogate)."
    if longest := max((part for part in encoded.split(b"/") if len(part) > _NAME), key=len, default=None):
        return f"contains a name of {len(longest)} bytes; the maximum is {_NAME}."
    if len(encoded) > _WHOLE:
        return f"has {len(encoded)} bytes; the maximum is {_WHOLE}."
    return None


def _instead(scheme: str, rest: str) -> str:
    if scheme == "file":
        return f"Nearest: {shown_path(f'/{rest}')}."
    if scheme in ("http", "https", "ftp"):
        return f"Download it first. Nearest: {shown_path(rest.rpartition('/')[2] or '.')}."
    return f"Mount the bucket ({_MOUNTED.get(scheme, 'with FUSE')}). Nearest: {shown_path(f'/mnt/{rest}')}."


def check(path: str | os.PathLike[str], source: str) -> Path:
    """Return a path after checks. The path need not exist.

    source: the option or other source of the path, for errors.
    Raises UserError if it is a URL or too long, if its links form a loop, or if one of its parent directories is a file.
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
    """Return the path of an existing or new directory. Raises UserError if the path is a file."""
    checked = check(path, source)
    if checked.exists() and not checked.is_dir():
        raise UserError(f"{shown_path(str(path))} ({source}) is a file, not a directory")
    return checked


def check_new_run(path: str | os.PathLike[str]) -> Path:
    """Return the path of the directory of a new run. Raises UserError if it is a file or not empty."""
    checked = check_directory(path, "--dir")
    if checked.exists() and any(checked.iterdir()):
        raise UserError(f"{checked} (--dir) already exists. Choose another --dir.")
    return checked


def check_output(path: str | os.PathLike[str], source: str) -> Path:
    """Return the path of an output file. Raises UserError if its directory is missing or not writable."""
    checked = check(path, source)
    text = shown_path(str(path))
    if not checked.parent.is_dir():
        raise UserError(f"{text} ({source}): no such directory {shown_path(str(checked.parent))}.")
    if checked.is_dir():
        raise UserError(f"{text} ({source}) is a directory.")
    if not os.access(checked if checked.exists() else checked.parent, os.W_OK):
        raise UserError(f"{text} ({source}): the directory {shown_path(str(checked.parent))} is not writable.")
    return checked


def shown_path(path: str) -> str:
    """Return a path for errors. The middle of a very long path is left out."""
    return path if len(path) <= 200 else f"{path[:60]}...{path[-60:]}"


def _file_above(path: str) -> str:
    return shown_path(str(next((above for above in Path(path).parents if above.is_file()), Path(path).parent)))
