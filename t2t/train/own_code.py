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


def keep(directory: Path, files: Mapping[str, bytes]) -> None:
    """Make RUN/code hold these files and no others. A death on the way leaves what was there before, or nothing."""
    folder, partial = directory / CODE, directory / f"{CODE}.partial"
    if _content(folder) == dict(files):
        return
    if partial.exists():
        shutil.rmtree(partial)
    for path, content in files.items():
        (partial / path).parent.mkdir(parents=True, exist_ok=True)
        (partial / path).write_bytes(content)
    if folder.exists():
        shutil.rmtree(folder)
    if files:
        partial.rename(folder)


def read(directory: Path, checksums: Mapping[str, str]) -> dict[str, bytes]:
    """Return the content of the files of RUN/code that `checksums` names.

    Raises UserError where a name leads out of the folder, a file is missing, or one is not what it was.
    """
    folder = directory / CODE
    files = {}
    for path, expected in checksums.items():
        where = f"{directory / 'run.json'}: code"
        place = stored_path(folder, path, where=where)
        if place.suffix != ".py":
            raise UserError(f"{where}: {path!r} is not the name of a Python file")
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
