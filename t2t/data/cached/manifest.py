"""The manifest of a cache: its files with sizes and checksums, and their source. Imports neither SeqIO nor TensorFlow."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from t2t.config import dumps, loads
from t2t.errors import UserError, nearest
from t2t.paths import check_directory
from t2t.stored_paths import stored_path

MANIFEST, PLAN = "manifest.json", "plan.json"
ENDING = ".array_record"


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of an example: the name of its TensorFlow dtype, and its number of axes."""

    dtype: str
    rank: int


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of examples.

    tokens: total number of ids in the task's features.
    every:  n if the file has every n-th example of the source, 1 if it has a contiguous part.
    size:   size of the file in bytes.
    sha256: checksum of the file.
    """

    file: str
    examples: int
    tokens: int
    every: int
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a task's cache directory. Without shards, it is the plan of a cache.

    source:       the source of the examples, with sizes and modification times of its files if known.
    steps:        the preprocessors that were run.
    vocabularies: feature -> its vocabulary, with the checksum of its file.
    fields:       the fields of an example.
    sharding:     split -> number of files.
    splits:       split -> files, in the order of their examples.
    """

    task: str
    source: str
    steps: tuple[str, ...]
    vocabularies: dict[str, str]
    fields: dict[str, Field]
    sharding: dict[str, int]
    splits: dict[str, tuple[Shard, ...]]

    def examples(self, split: str) -> int:
        """Return the number of examples in a split."""
        return sum(shard.examples for shard in self.splits[split])


def directory_of(out: str | os.PathLike[str], task: str) -> Path:
    """Return the directory of a task in `out`. Raises UserError if `out` cannot be a directory path."""
    return check_directory(out, "cached").expanduser() / task.replace("/", "_")


def load(directory: Path) -> Manifest:
    """Return the manifest in a task's directory.

    Raises:
      UserError: there is no cache, it is unfinished, its manifest is damaged, or the manifest names a file outside the directory.
    """
    path = directory / MANIFEST
    if not path.is_file():
        if (directory / PLAN).is_file():
            done = count_complete(directory)
            wanted = sum(_manifest(directory / PLAN).sharding.values())
            raise UserError(
                f"{directory}: {done} of {wanted} shards are complete; run the same `t2t cache` again to make the rest."
            )
        other_caches = [found.name for found in directory.parent.glob("*") if (found / MANIFEST).is_file()]
        raise UserError(
            f"{directory}: no such cache; create it with `t2t cache`.{nearest(directory.name, other_caches) if other_caches else ''}"
        )
    manifest = _manifest(path)
    for shards in manifest.splits.values():
        for shard in shards:
            stored_path(directory, shard.file, where=str(path))
    return manifest


def _manifest(path: Path) -> Manifest:
    manifest = loads(path.read_bytes(), where=str(path))
    if not isinstance(manifest, Manifest):
        raise UserError(f"{path}: is not the manifest of a cache.")
    return manifest


def write(directory: Path, name: str, value: Manifest | Shard) -> None:
    """Write a JSON file atomically."""
    part = directory / f".{name}.{os.getpid()}.tmp"
    part.write_text(dumps(value), encoding="utf-8")
    os.replace(part, directory / name)


def shard_name(split: str, index: int, count: int) -> str:
    """Return the file name of a shard."""
    return f"{split}-{index:05d}-of-{count:05d}{ENDING}"


def record_of(file: str) -> str:
    """Return the name of the file that marks a shard as complete until the manifest is written."""
    return file.removesuffix(ENDING) + ".json"


def count_complete(directory: Path) -> int:
    """Return the number of complete shards in the directory of an unfinished cache."""
    return len(list(directory.glob("*-of-*.json")))


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def problem(directory: Path, shard: Shard, *, content: bool) -> str | None:
    """Return what is wrong with the file of a shard, or None if it is intact.

    content: compare the checksum too, not only the size.
    """
    path = directory / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: {(error.strerror or 'unreadable').lower()}"
    if size != shard.size:
        return f"{path}: has {size:,} bytes, but was written with {shard.size:,}"
    if content and checksum(path) != shard.sha256:
        return f"{path}: its content has changed (SHA-256)"
    return None


def problems(directory: Path, manifest: Manifest, *, content: bool) -> Iterator[str]:
    """Yield the problems of the files of a cache, see `problem`."""
    for shards in manifest.splits.values():
        for shard in shards:
            if found := problem(directory, shard, content=content):
                yield found


def verify(out: str | os.PathLike[str], task: str) -> Manifest:
    """Check the checksums of all files of a task's cache, and return its manifest.

    Raises:
      UserError: there is no cache, or a file is missing, truncated or changed.
    """
    directory = directory_of(out, task)
    manifest = load(directory)
    found = list(problems(directory, manifest, content=True))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise UserError(f"{found[0]}{more}. Run the same `t2t cache` without --verify to rewrite it.")
    return manifest


def differences(old: Manifest, new: Manifest) -> list[str]:
    """Return the differences that prevent two plans from sharing a cache, most important first. Their splits may differ."""
    found = []
    for name in ("task", "vocabularies", "steps", "fields", "source"):
        before, after = getattr(old, name), getattr(new, name)
        if before != after:
            found.append(f"{name} {_short(before, after)}, now {_short(after, before)}")
    for split in sorted(old.sharding.keys() & new.sharding.keys()):
        if old.sharding[split] != new.sharding[split]:
            found.append(f"{old.sharding[split]} shards of split {split!r}, now {new.sharding[split]}")
    return found


def _short(value: object, other: object) -> str:
    """Return the repr of a value. For two dicts, include only the items that differ."""
    if isinstance(value, dict) and isinstance(other, dict):
        value = {key: item for key, item in value.items() if other.get(key) != item}
    return repr(value)
