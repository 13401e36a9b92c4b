"""RUN/code: the user code of a run, so that the run can be used, evaluated and resumed anywhere."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from t2t.errors import UserError
from t2t.stored_paths import stored_path

CODE = "code"
PARTIAL = f"{CODE}.partial"


@dataclass(frozen=True, kw_only=True)
class OwnCode:
    """The user code of a run.

    imports: what to import, in this order: names of files in RUN/code ("mine.py") and names of modules.
    files:   the files of RUN/code: relative path with slashes -> content. Installed packages are not included.
    """

    imports: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {path: checksum(content) for path, content in sorted(self.files.items())}


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def prepare(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files next to RUN/code. `adopt` moves them to RUN/code after run.json has their checksums.

    If the process ends at any moment, the files that run.json names are in one of the two places.
    """
    partial = directory / PARTIAL
    if partial.exists():
        shutil.rmtree(partial)
    if _content(directory / CODE) == dict(files):
        return
    partial.mkdir()
    for path, content in files.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_bytes(content)


def adopt(directory: Path) -> None:
    """Replace RUN/code with the prepared files, if there are any."""
    folder, partial = directory / CODE, directory / PARTIAL
    if not partial.exists():
        return
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    if not any(folder.iterdir()):
        folder.rmdir()


def read(directory: Path, checksums: Mapping[str, str]) -> dict[str, bytes]:
    """Return the content of the files of RUN/code that `checksums` names.

    Raises UserError if a name leads out of the folder, or if a file is missing or has changed.
    """
    files = {}
    for path, expected in checksums.items():
        where = f"{directory / 'run.json'}: code"
        place = stored_path(directory / CODE, path, where=where)
        if place.suffix != ".py":
            raise UserError(f"{where}: {path!r} is not the name of a Python file")
        prepared = stored_path(directory / PARTIAL, path, where=where)
        if prepared.is_file() and checksum(prepared.read_bytes()) == expected:
            place = prepared  # a training ended before `adopt`
        try:
            files[path] = place.read_bytes()
        except OSError as error:
            raise UserError(f"{place}: cannot read the code of the run: {error.strerror}") from None
        if (found := checksum(files[path])) != expected:
            raise UserError(
                f"{place} has changed since the run was trained: its SHA-256 is {found[:12]}..., run.json has {expected[:12]}...;"
                " pass your own copy with --import"
            )
    return files


def _content(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
