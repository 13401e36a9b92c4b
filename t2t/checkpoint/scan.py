"""Find damage by reading parts of a checkpoint one at a time, before Orbax reads all of them in parallel, and report it in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tensorstore
from etils import epath

from t2t.errors import Failure, UserError, cannot_be_read
from t2t.json_files import NotJson, expect, json_value

METADATA = "_CHECKPOINT_METADATA"
_OUT_OF_MEMORY = "RESOURCE_EXHAUSTED"
_SMALL = 64 << 20
"""Maximum size in bytes of a tree's files for which its arrays are read one more time to find damage."""


def scan(folder: epath.Path, *, data: bool) -> None:
    """Read the metadata of a tree's arrays, and the arrays of a small tree, one at a time. Raises like `store.read`.

    Orbax reads all arrays in parallel. If one read fails, the others call a closed event loop, and TensorStore prints a traceback for each.
    """
    if "://" in str(folder) or not (folder / "manifest.ocdbt").exists():
        return
    described = [folder.parent / METADATA, folder / "_METADATA", folder / "_sharding"]
    for file in described:
        if file.exists():
            read_object(file)
    for file in (folder / "array_metadatas").glob("*"):
        _check_pieces(file)
    try:
        base = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder}/"}}
        keys = tensorstore.KvStore.open(base).result().list().result()
        names = sorted(key.decode().removesuffix("zarr.json") for key in keys if key.endswith(b"zarr.json"))
        small = data and sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()) <= _SMALL
        for name in names:
            array = tensorstore.open({"driver": "zarr3", "kvstore": {**base, "path": name}}, read=True).result()
            if small:
                array.read().result()
    except ValueError as error:
        raise read_error(folder, error) from error


def read_object(file: epath.Path) -> dict[str, Any]:
    """Return the JSON object in a file. Raises UserError on damage, and Failure if the file cannot be read at the moment."""
    try:
        value = json_value(file.read_bytes())
    except OSError as error:
        raise read_error(file, error) from error
    except NotJson as error:
        raise UserError(f"{file}: the checkpoint is damaged ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{file}: the checkpoint is damaged (it is not a JSON object)")
    return value


def _check_pieces(file: epath.Path) -> None:
    """Check the file with the shapes of the written pieces of arrays. Orbax uses it to read them."""
    where = f"{file}: the checkpoint is damaged"
    for entry in expect(read_object(file).get("array_metadatas"), list, where):
        piece = expect(expect(entry, dict, where).get("array_metadata"), dict, where)
        expect(piece.get("param_name"), str, where)
        for name in ("write_shape", "chunk_shape"):
            for size in expect(piece.get(name), list, where):
                expect(size, int, where)


def read_error(path: epath.Path, error: BaseException | None, *logged: str) -> Exception:
    """Return the exception for a read that failed: UserError on damage, Failure if the file system does not respond, out of memory unchanged."""
    # In the first cause, TensorStore names the file.
    first = error
    while first is not None and (cause := first.__cause__ or first.__context__) is not None:
        first = cause
    if isinstance(first, MemoryError) or (first is not None and _OUT_OF_MEMORY in str(first)):
        assert isinstance(first, Exception)
        return first
    text = "\n".join([str(first)] if first is not None else logged)
    named = [
        found for found in re.findall(r"[\"']([^\"'\n]+)[\"']", text) if "/" in found and epath.Path(found).is_file()
    ]
    where = named[0] if named else path
    if away := cannot_be_read(error or Failure(), *logged):
        return Failure(f"{where}: the checkpoint cannot be read ({away})")
    found = re.findall(r"\b[A-Z_]{6,}: [^\n\[]+", text) or re.findall(r"Error details: ([^\n]+)", text)
    reason = (found or text.strip().split("\n"))[0] or type(first).__name__
    kind = (
        "or is not a checkpoint of this program" if error is not None else "the metadata of its arrays cannot be read"
    )
    return UserError(f"{where}: the checkpoint is damaged, {kind} ({reason.strip()[:300]})")
