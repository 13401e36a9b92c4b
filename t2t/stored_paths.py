"""Check paths that come from files: each must stay inside the file's directory.

A run, an export, a cache or a published model may come from an untrusted source. Its index or manifest may contain `../../.ssh/id_rsa`, an absolute
path, or the name of a link to such a file. Use `stored_path` for every such name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from t2t.errors import UserError


def stored_path(directory: str | os.PathLike[str], name: Any, *, where: str, also: Sequence[Path] = ()) -> Path:
    """Return the path of `name` in a directory. The path need not exist.

    where: the file that contains the name, for errors.
    also:  other directories to which links may point.
    Raises UserError if the name is not a relative path without "..", if it points outside through a link, or if it is a device, a pipe or a socket.
    """
    relative = check_name(name, where=where)
    return inside(directory, relative, where=where, also=also)


def check_name(name: Any, *, where: str) -> str:
    """Return the name if it is a relative path with forward slashes and without "..". Raises UserError otherwise. Does not access the disk."""
    if not isinstance(name, str):
        raise UserError(f"{where}: expected the name of a file, not {_short(name)}")
    parts = PurePosixPath(name).parts
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or "\\" in name or "://" in name
    if not parts or absolute or ".." in parts or not name.isprintable():
        raise UserError(f"{where}: {_short(name)} is not the name of a file in its directory")
    return name


def inside(directory: str | os.PathLike[str], name: str, *, where: str, also: Sequence[Path] = ()) -> Path:
    """Return the path of a trusted name, after the same checks of links and special files as `stored_path`."""
    path = Path(directory) / name
    try:
        real = path.resolve()
        roots = [Path(directory).resolve(), *(root.resolve() for root in also)]
        mode = real.stat().st_mode if real.exists() else None
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
        raise UserError(
            f"{where}: {_short(name)} cannot be resolved ({getattr(error, 'strerror', None) or error})"
        ) from None
    if not any(real.is_relative_to(root) for root in roots):
        raise UserError(
            f"{where}: {_short(name)} points outside {os.fspath(directory)}, to {real}; replace the link with a copy of the file"
        )
    if mode is not None and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{where}: {_short(name)} is neither a file nor a directory")
    return path


def check_links(directory: Path, endings: Collection[str]) -> None:
    """Check that the files of a model's directory are not links that point outside.

    endings: extensions of the files to check; other files are never read. Links of the Hugging Face cache to its blobs are allowed.
    Raises UserError like `inside`.
    """
    also = hub_cache(directory)
    for entry in sorted(directory.iterdir()):
        if entry.suffix in endings:
            inside(directory, entry.name, where=str(directory), also=also)


def hub_cache(directory: Path) -> tuple[Path, ...]:
    """Return the target directory of links in the Hugging Face cache: models--OWNER--NAME/blobs for .../snapshots/COMMIT. Empty for other directories."""
    real = directory.resolve()
    blobs = real.parent.parent / "blobs"
    cached = real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--")
    return (blobs,) if cached and not blobs.is_symlink() else ()


def _short(name: Any) -> str:
    shown = repr(name)
    return shown if len(shown) <= 100 else f"{shown[:97]}..."
