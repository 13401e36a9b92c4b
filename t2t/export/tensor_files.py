"""Reading and writing of safetensors one tensor at a time: one file, or several with an index (`model.safetensors.index.json`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from t2t.errors import UserError
from t2t.json_files import expect, read_json
from t2t.stored_paths import check_name, hub_cache, stored_path

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
DTYPES: dict[str, tuple[Any, str]] = {
    "float32": (np.float32, "F32"),
    "bfloat16": (ml_dtypes.bfloat16, "BF16"),
    "float16": (np.float16, "F16"),
}
"""Types of written weights -> (NumPy type, safetensors name)."""
_OWN: dict[str, tuple[Any, str]] = {
    **DTYPES,
    "uint8": (np.uint8, "U8"),
    "int32": (np.int32, "I32"),
    "int64": (np.int64, "I64"),
}
_FLOATS = {"F64", "F32", "F16", "BF16"}


class TensorFiles:
    """The tensors of a directory, open for reading. The files are memory-mapped: a tensor uses memory only while its array exists."""

    def __init__(self, directory: Path, *, single: str = SINGLE) -> None:
        """Open the files of the directory. Raises UserError if there are none, or if one is missing or damaged.

        single: name of the file that has all tensors if there is no index.
        """
        self.directory = directory
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        for file, names in _listed(directory, single).items():
            where = str(directory if names is None else directory / INDEX)
            path = stored_path(directory, file, where=where, also=hub_cache(directory))
            try:
                opened = self._stack.enter_context(safe_open(path, framework="numpy"))
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path}: cannot be read ({_one_line(error)})") from None
            self._files[file] = opened
            found = list(opened.keys())
            if names is not None and (lost := sorted(set(names) - set(found))):
                raise UserError(f"{directory / file}: tensor {lost[0]} is missing, but {INDEX} lists it")
            self._where.update(dict.fromkeys(names or found, file))
            for name in found:  # Include tensors that the index does not list.
                self._where.setdefault(name, file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def names(self) -> list[str]:
        """The names of all tensors, in alphabetical order."""
        return sorted(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""
        return tuple(self._files[self._where[name]].get_slice(name).get_shape())

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""
        return self.shape(one) == self.shape(other) and np.array_equal(self.read(one), self.read(other))

    def read(self, name: str) -> np.ndarray:
        """Return a tensor in its stored type. Raises UserError if that is not a floating type."""
        opened = self._files[self._where[name]]
        dtype = opened.get_slice(name).get_dtype()
        if dtype not in _FLOATS:
            raise UserError(
                f"{self.directory / self._where[name]}: tensor {name} has type {dtype}, not one of {', '.join(sorted(_FLOATS))}:"
                " quantised weights are not supported"
            )
        return opened.get_tensor(name)

    def read_bytes(self, name: str) -> np.ndarray:
        """Return a tensor of bytes. Raises UserError if it has another type."""
        opened = self._files[self._where[name]]
        dtype = opened.get_slice(name).get_dtype()
        if dtype != "U8":
            raise UserError(f"{self.directory / self._where[name]}: tensor {name} has type {dtype}, not U8")
        return opened.get_tensor(name)


def _listed(directory: Path, single: str) -> dict[str, list[str] | None]:
    """Return file -> names of its tensors, or None if there is no index."""
    if (index := directory / INDEX).is_file() and single == SINGLE:
        return {**indexed(index)}
    if (directory / single).is_file():
        return {single: None}
    if found := sorted(path.name for path in directory.glob("*.safetensors")):
        raise UserError(f"{directory}: neither {single} nor {INDEX} exists, but {found[0]} does: rename it to {single}")
    if pickled := sorted(path.name for path in directory.glob("*.bin")):
        raise UserError(
            f"{directory}: {pickled[0]} is a pickle, which can run any code when it is read;"
            " use model.save_pretrained(DIR) of transformers to write safetensors"
        )
    raise UserError(f"{directory}: no weights: {single} is missing")


def indexed(index: Path) -> dict[str, list[str]]:
    """Return file -> names of its tensors, as an index lists them. Raises UserError if the index is damaged or empty."""
    where = expect(read_json(index).get("weight_map"), dict, f"{index}: weight_map")
    files: dict[str, list[str]] = {}
    for name, file in where.items():
        files.setdefault(check_name(file, where=str(index)), []).append(name)
    if not files:
        raise UserError(f"{index}: weight_map is empty")
    return files


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def write_tensors(
    directory: Path,
    shapes: Sequence[tuple[str, tuple[int, ...]]],
    make: Callable[[str], np.ndarray],
    *,
    dtype: str = "float32",
    shard_bytes: int = 5_000_000_000,
    types: Mapping[str, str] = MappingProxyType({}),
) -> list[Path]:
    """Write tensors one at a time and return the files. `make(name)` returns each tensor when it is needed.

    types: the type of each tensor that has another one than `dtype`; "uint8", "int32" and "int64" are such types too.

    A new file is started if the current one would exceed `shard_bytes`. The safetensors library would need all tensors of a file in memory.
    """

    def size(name: str, shape: tuple[int, ...]) -> int:
        return np.dtype(_OWN[types.get(name, dtype)][0]).itemsize * int(np.prod(shape))

    groups: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, shape in shapes:
        count = size(name, shape)
        if groups[-1] and filled + count > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append((name, shape))
        filled += count
    files = [
        directory / (SINGLE if len(groups) == 1 else f"model-{i:05d}-of-{len(groups):05d}.safetensors")
        for i in range(1, len(groups) + 1)
    ]
    for path, group in zip(files, groups, strict=True):
        _write(path, group, make, lambda name: _OWN[types.get(name, dtype)])
    if len(groups) > 1:
        where = {name: path.name for path, group in zip(files, groups, strict=True) for name, _ in group}
        total = sum(size(*one) for one in shapes)
        index = {"metadata": {"total_size": total}, "weight_map": where}
        (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _write(
    path: Path,
    group: Sequence[tuple[str, tuple[int, ...]]],
    make: Callable[[str], np.ndarray],
    type_of: Callable[[str], tuple[Any, str]],
) -> None:
    # Format: 8 bytes for the header's length, the header in JSON, the tensors' bytes (https://github.com/huggingface/safetensors).
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in group:
        kind, code = type_of(name)
        end = offset + np.dtype(kind).itemsize * int(np.prod(shape))
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, shape in group:
            array = np.ascontiguousarray(make(name), type_of(name)[0])
            assert array.shape == tuple(shape), (name, array.shape, shape)
            file.write(array.reshape(-1).view(np.uint8).data)
