"""Paths that are read out of a file: each must stay inside the directory that the file describes.

A run, an export, a cache or a published model comes from elsewhere. What its index or manifest names may be `../../.ssh/id_rsa`, an absolute path, or
a link to one. Every reader of such a name goes through `stored_path`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from t2t.errors import UserError


def stored_path(directory: str | os.PathLike[str], name: Any, *, where: str, also: Sequence[Path] = ()) -> Path:
    """Return the path of `name` in a directory; there need be nothing at it.

    where: the file that names it, for the error.
    also:  directories that a link may lead to besides.
    Raises UserError where the name is not a relative path without "..", where it leads outside through a link, or where it is a device, a pipe or a socket.
    """
    relative = check_name(name, where=where)
    return inside(directory, relative, where=where, also=also)


def check_name(name: Any, *, where: str) -> str:
    """Return a name that is a relative path of a file, with forward slashes and without ".."; UserError otherwise. Nothing is looked up."""
    if not isinstance(name, str):
        raise UserError(f"{where}: a file's name is wanted, not {_short(name)}")
    parts = PurePosixPath(name).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name or "://" in name
    if not parts or absolute or ".." in parts or not name.isprintable():
        raise UserError(f"{where}: {_short(name)} is not the name of a file in its directory")
    return name


def inside(directory: str | os.PathLike[str], name: str, *, where: str, also: Sequence[Path] = ()) -> Path:
    """Return the path of a name that was chosen here and not read, after the same checks of links and special files as `stored_path`."""
    path = Path(directory) / name
    try:
        real = path.resolve()
        roots = [Path(directory).resolve(), *(root.resolve() for root in also)]
        mode = real.stat().st_mode if real.exists() else None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise UserError(
            f"{where}: {_short(name)} cannot be followed ({getattr(error, 'strerror', None) or error})"
        ) from None
    if not any(real.is_relative_to(root) for root in roots):
        raise UserError(
            f"{where}: {_short(name)} leads out of {os.fspath(directory)}, to {real}; copy the file there in place of the link"
        )
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{where}: {_short(name)} is neither a file nor a directory")
    return path


def check_links(directory: Path, endings: Collection[str]) -> None:
    """Check all files of a model's directory that are read by names known here, "config.json" say: none may be a link to somewhere else.

    endings: of the names to check; what else lies there is not read. Links of the Hugging Face cache lead to its blobs, and may.
    Raises UserError as `inside` does.
    """
    also = hub_cache(directory)
    for entry in sorted(directory.iterdir()):
        if entry.suffix in endings:
            inside(directory, entry.name, where=str(directory), also=also)


def hub_cache(directory: Path) -> tuple[Path, ...]:
    """Return where the links of a model in the Hugging Face cache lead: models--OWNER--NAME/blobs for .../snapshots/COMMIT, nothing for other directories."""
    real = directory.resolve()
    blobs = real.parent.parent / "blobs"
    cached = real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--")
    return (blobs,) if cached and not blobs.is_symlink() else ()


def _short(name: Any) -> str:
    shown = repr(name)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
