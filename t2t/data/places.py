"""Store the position of a shard as a zip archive: a header, the examples that were read but not returned yet, and the state of its tf.data iterator."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2t.data.converters import Example, FeatureConverter, Row
from t2t.errors import UserError
from t2t.json_files import expect, parse_json

_HEADER, _EXAMPLES, _STATE = "header.json", "examples.npz", "iterator"
_COUNTS = ("examples", "trimmed", "empty")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The position of a shard.

    identity: settings of the data that the position belongs to.
    blocks:   number of blocks of examples read.
    ended:    whether the source has ended.
    counts:   numbers of examples, by name.
    ready:    finished rows.
    opened:   unfinished rows.
    waiting:  examples that are in no row yet, each with whether it was truncated.
    files:    the state of the tf.data iterator, as files whose names begin with "iterator". Empty if the state cannot be saved.
    batches:  number of batches that were returned. 0 in positions of earlier versions, whose batches have one size.
    """

    identity: Mapping[str, Any]
    blocks: int
    ended: bool
    counts: Mapping[str, int]
    ready: Sequence[Row]
    opened: Sequence[Row]
    waiting: Sequence[tuple[Example, bool]]
    files: Mapping[str, bytes]
    batches: int = 0


def to_bytes(place: Place, layout: FeatureConverter) -> bytes:
    """Return the position as a zip archive."""
    groups = (place.ready, place.opened, [[example for example, _ in place.waiting]])
    header = {
        "identity": dict(place.identity),
        "blocks": place.blocks,
        "ended": place.ended,
        "counts": dict(place.counts),
        "batches": place.batches,
        "cut": [cut for _, cut in place.waiting],
        "rows": [[len(row) for row in group] for group in groups],
    }
    kept = [example for group in groups for row in group for example in row]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in {
            _HEADER: json.dumps(header).encode(),
            _EXAMPLES: _to_npz(kept, layout),
            **place.files,
        }.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 1)
    return out.getvalue()


def from_bytes(content: bytes, layout: FeatureConverter, where: str) -> Place:
    """Return the position that `to_bytes` wrote. `where` names its owner in errors. Raises UserError if it is damaged or too old."""
    damaged = f"{where}: damaged or not a data position"
    try:
        files = _unpacked(content)
        header = parse_json(files.pop(_HEADER), where=damaged, shape=dict)
        examples = files.pop(_EXAMPLES)
    except KeyError as error:
        raise UserError(f"{damaged} ({error} is missing).") from None
    except _BROKEN as error:
        raise UserError(f"{damaged} ({error}).") from None
    for name in files:
        if not (name.startswith(_STATE) and name.replace("-", "").replace(".", "").replace("_", "").isalnum()):
            raise UserError(f"{damaged} (unexpected file {name[:100]!r}).")
    if "cut" not in header:
        raise UserError(f"{where} was saved by an older t2t, which read tasks differently: resume with that version.")
    identity = expect(header.get("identity"), dict, f"{damaged}, identity")
    counts = expect(header.get("counts"), dict, f"{damaged}, counts")
    if counts.keys() != set(_COUNTS):
        raise UserError(f"{damaged} (its counts are not {', '.join(_COUNTS)}).")
    cuts = [expect(cut, bool, f"{damaged}, cut") for cut in expect(header["cut"], list, f"{damaged}, cut")]
    groups = [expect(group, list, f"{damaged}, rows") for group in expect(header.get("rows"), list, f"{damaged}, rows")]
    sizes = [[_natural(size, f"{damaged}, rows") for size in group] for group in groups]
    total = sum(sum(group) for group in sizes)
    if len(sizes) != 3 or sizes[2] != [len(cuts)]:
        raise UserError(f"{damaged} (its rows do not match its flags of truncated examples).")
    try:
        found = _from_npz(examples, layout)
    except _BROKEN as error:
        raise UserError(f"{damaged} ({_EXAMPLES}: {error}).") from None
    if len(found) != total:
        raise UserError(f"{damaged} (it has {len(found)} examples, its header says {total}).")
    rest = iter(found)
    ready, opened, (waiting,) = ([list(itertools.islice(rest, size)) for size in group] for group in sizes)
    for row in (*ready, *opened):
        taken = [sum(used) for used in zip(*map(layout.sizes, row), strict=True)]
        if any(used > room for used, room in zip(taken, layout.capacity, strict=False)):
            raise UserError(f"{damaged} (one of its rows is longer than {layout.capacity}).")
    return Place(
        identity=identity,
        blocks=_natural(header.get("blocks"), f"{damaged}, blocks"),
        ended=expect(header.get("ended"), bool, f"{damaged}, ended"),
        counts={name: _natural(counts[name], f"{damaged}, counts") for name in _COUNTS},
        ready=ready,
        opened=opened,
        waiting=list(zip(waiting, cuts, strict=True)),
        files=files,
        batches=_natural(header.get("batches", 0), f"{damaged}, batches"),
    )


_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    SyntaxError,
)
"""Errors that zipfile and NumPy raise for damaged archives."""


def _unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _natural(value: Any, where: str) -> int:
    if expect(value, int, where) < 0:
        raise UserError(f"{where}: {value} is below 0")
    return value


def _to_npz(examples: Sequence[Example], layout: FeatureConverter) -> bytes:
    arrays: dict[str, Any] = {}
    for name in layout.features:
        pieces = [example[name] for example in examples]
        arrays[name] = np.concatenate(pieces) if pieces else np.zeros(0, layout.dtype(name))
        arrays[f"{name}_lengths"] = np.array([len(piece) for piece in pieces], np.int32)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _from_npz(content: bytes, layout: FeatureConverter) -> list[Example]:
    """Return the examples. Raises one of _BROKEN if the arrays do not fit the layout."""
    columns: dict[str, list[np.ndarray]] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        wanted = {f"{name}{ending}.npy" for name in layout.features for ending in ("", "_lengths")}
        if set(archive.namelist()) != wanted:
            raise ValueError(f"its features are not {', '.join(layout.features)}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        for name in layout.features:
            values, lengths = arrays[name], arrays[f"{name}_lengths"]
            if (
                values.ndim != 1
                or lengths.ndim != 1
                or lengths.dtype.kind not in "iu"
                or values.dtype.kind not in "iuf"
            ):
                raise ValueError(f"{name} is not a one-dimensional array of numbers with lengths")
            if (lengths < 0).any() or lengths.sum() != len(values) or (lengths > layout.limits[name]).any():
                raise ValueError(f"{name} does not match its lengths")
            if name in layout.followers and list(map(len, columns[layout.leader])) != lengths.tolist():
                raise ValueError(f"{name} is not as long as {layout.leader}")
            columns[name] = np.split(values, np.cumsum(lengths)[:-1]) if lengths.size else []
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
