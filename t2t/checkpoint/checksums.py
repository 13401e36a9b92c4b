"""Checksums of the files of a checkpoint. They are written when it is complete and compared before it is used.

STEP/checksums-00000-of-00002.json has name -> [bytes, sha256] for process 0's part of the files. A checkpoint is sealed if all parts exist. If
not, its writing was interrupted.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Collection, Iterator, Mapping

from etils import epath

from t2t.checkpoint.scan import read_object
from t2t.checksums import digest, is_directory, names_beneath
from t2t.errors import Failure, UserError, cannot_be_read
from t2t.stored_paths import check_name, inside

_PART = re.compile(r"checksums-(\d{5})-of-(\d{5})\.json")
_WAIT = 3600.0
"""Maximum number of seconds to wait for the parts of other processes."""


def seal(path: epath.Path, *, process: int = 0, processes: int = 1) -> None:
    """Read this process's part of the files of a checkpoint and write their checksums. Call this on all processes."""
    names = _names(path)[process::processes]
    _write(
        path / f"checksums-{process:05d}-of-{processes:05d}.json", {name: list(digest(path / name)) for name in names}
    )


def add(path: epath.Path, name: str) -> None:
    """Add the checksum of "folder/file", which was added to a sealed checkpoint, to the first part."""
    part = _parts(path)[0][0]
    _write(part, {**read_object(part), name: list(digest(path / name))})


def _write(part: epath.Path, found: Mapping[str, object]) -> None:
    partial = part.with_name(f".{part.name}.partial")
    partial.write_text(json.dumps(found, indent=0) + "\n")
    partial.replace(part)


def wait_for_seal(path: epath.Path, *, seconds: float = _WAIT) -> None:
    """Wait until all processes have sealed their parts. Raises TimeoutError after `seconds`."""
    until = time.monotonic() + seconds
    while not is_sealed(path):
        if time.monotonic() > until:
            raise TimeoutError(f"{path}: not all processes wrote their checksums within {seconds:.0f} s")
        time.sleep(0.05)


def is_sealed(path: epath.Path) -> bool:
    """Return whether the checkpoint is complete: all parts of its checksums exist."""
    parts = [match.groups() for file, _ in _parts(path) if (match := _PART.fullmatch(file.name))]
    counts = {int(count) for _, count in parts}
    return len(counts) == 1 and sorted(int(index) for index, _ in parts) == list(range(*counts))


def damage(
    path: epath.Path, folders: Collection[str] | None = None, *, process: int = 0, processes: int = 1
) -> list[str]:
    """Return one line, with the path, for each file that is missing, unknown or changed; [] if there is no damage.

    folders:            compare only files in these folders.
    process, processes: compare only this process's part of the files.
    Raises Failure if a file cannot be read at the moment: that is no damage.
    """
    try:
        if not is_sealed(path):
            return [f"{path}: the checkpoint is incomplete, its checksums are missing"]
        listed = expected(path)
        present = {name for name in _names(path) if not name.rpartition("/")[2].startswith(".")}
        names, unknown = (
            sorted(name for name in found if folders is None or name.split("/")[0] in folders)
            for found in (listed, present - listed.keys())
        )
        lines = [f"{path / name}: the checkpoint is damaged, this file is not in its checksums" for name in unknown]
        return lines + list(_compare(path, {name: listed[name] for name in names[process::processes]}))
    except UserError as error:
        return [str(error)]
    except OSError as error:
        if away := cannot_be_read(error):
            raise Failure(f"{error.filename or path}: the checkpoint cannot be read ({away})") from error
        raise


def expected(path: epath.Path) -> dict[str, tuple[int, str]]:
    """Return name -> (bytes, SHA-256) from all parts. Raises UserError if a part is damaged."""
    listed: dict[str, tuple[int, str]] = {}
    for part, _ in _parts(path):
        for name, value in read_object(part).items():
            match value:
                case [int(size), str(found)] if not isinstance(size, bool):
                    listed[check_name(name, where=str(part))] = size, found
                case _:
                    raise UserError(
                        f"{part}: the checkpoint is damaged, the entry of {name!r} is not a size and a checksum"
                    )
    return listed


def _compare(path: epath.Path, expected: dict[str, tuple[int, str]]) -> Iterator[str]:
    for name, (size, wanted) in expected.items():
        file = path / name
        try:
            if "://" not in str(path):
                inside(path, name, where=str(path))
            have, found = digest(file)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            yield f"{file}: the checkpoint is damaged, the file is missing"
            continue
        if have != size:
            yield f"{file}: the checkpoint is damaged, the file has {have:,} bytes, expected {size:,}"
        elif found != wanted:
            yield f"{file}: the checkpoint is damaged, the file does not match its checksum"


def _parts(path: epath.Path) -> list[tuple[epath.Path, int]]:
    """Return the file of each part and the expected number of parts."""
    if not is_directory(path):
        return []
    matches = [(entry, match) for entry in path.iterdir() if (match := _PART.fullmatch(entry.name))]
    return sorted(((entry, int(match[2])) for entry, match in matches), key=lambda part: part[0].name)


def _names(path: epath.Path) -> list[str]:
    """Return the files of a checkpoint, "folder/file", without the checksum files."""
    return [name for name in names_beneath(path) if "/" in name or not name.lstrip(".").startswith("checksums-")]
