"""RUN/code: the user's own code that a run was trained with, so that the run can be asked, evaluated and continued anywhere."""

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
    """Code of the user's that a run is trained with.

    imports: what to import, in this order: names of files in RUN/code ("mine.py"), and modules' names.
    files:   what RUN/code holds: path below it, with slashes -> content. Installed packages are not in it.
    """

    imports: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def checksums(self) -> dict[str, str]:
        """The SHA-256 of each file."""
        return {path: checksum(content) for path, content in sorted(self.files.items())}


def checksum(content: bytes) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def prepare(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write these files beside RUN/code, where `adopt` puts them in its place, once run.json has their checksums.

    A death at any moment leaves what run.json names in RUN/code or beside it.
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
    """Make RUN/code what was prepared, if anything was."""
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

    Raises UserError where a name leads out of the folder, a file is missing, or one is not what it was.
    """
    files = {}
    for path, expected in checksums.items():
        where = f"{directory / 'run.json'}: code"
        place = stored_path(directory / CODE, path, where=where)
        if place.suffix != ".py":
            raise UserError(f"{where}: {path!r} is not the name of a Python file")
        prepared = stored_path(directory / PARTIAL, path, where=where)
        if prepared.is_file() and checksum(prepared.read_bytes()) == expected:
            place = prepared  # a training died before it was adopted
        try:
            files[path] = place.read_bytes()
        except OSError as error:
            raise UserError(f"{place}: code of the run cannot be read: {error.strerror}") from None
        if (found := checksum(files[path])) != expected:
            raise UserError(
                f"{place}: not the code that the run was trained with: its SHA-256 is {found[:12]}..., run.json says {expected[:12]}...;"
                " --import your own copy"
            )
    return files


def _content(folder: Path) -> dict[str, bytes]:
    if not folder.is_dir():
        return {}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
