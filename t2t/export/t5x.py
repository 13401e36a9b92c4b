"""Reading of T5X checkpoints: named arrays, read one at a time.

CHECKPOINT/checkpoint (msgpack) contains the small arrays and a description of each large array. A large array is a zarr directory:
CHECKPOINT/target.encoder.layers_0.attention.query.kernel. Here names do not have "target/", and "/" separates the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.stored_paths import stored_path

MSGPACK = "checkpoint"
_DRIVERS = ("zarr", "zarr3")


class Arrays:
    """Named arrays of an open checkpoint.

    legacy: whether the names are those of Mesh TensorFlow, with which T5 was trained before T5X.
    """

    def __init__(
        self, directory: Path, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Any], *, legacy: bool
    ):
        self.directory = directory
        self.shapes = dict(shapes)
        self.legacy = legacy
        self._read = read

    @property
    def names(self) -> list[str]:
        """The sorted names of all arrays."""
        return sorted(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return an array's shape without reading it."""
        return self.shapes[name]

    def equal(self, one: str, other: str) -> bool:
        """Whether two arrays are equal."""
        return np.array_equal(self.read(one), self.read(other))

    def read(self, name: str) -> np.ndarray:
        """Return an array in its stored type."""
        return np.asarray(self._read(name))


def open_arrays(path: Path) -> Arrays:
    """Open a T5X checkpoint. Raises UserError if it is not one."""
    if not (path / MSGPACK).is_file():
        raise UserError(
            f"{path}: neither a T5X checkpoint ({MSGPACK} is missing) nor a TensorFlow checkpoint (*.index)"
        )
    try:
        return _native(path)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path / MSGPACK}: not a T5X checkpoint ({reason})") from None


def _native(path: Path) -> Arrays:
    from flax.serialization import msgpack_restore

    tree = msgpack_restore((path / MSGPACK).read_bytes())
    target = tree["optimizer"]["target"]
    small: dict[str, np.ndarray] = {}
    large: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, dict) and "driver" in node:
            folder = str(node["kvstore"]["path"]).rstrip("/").rpartition("/")[2]
            if node["driver"] not in _DRIVERS:
                raise ValueError(f"{name} uses driver {str(node['driver'])[:40]!r}, not one of {', '.join(_DRIVERS)}")
            large[name] = stored_path(path, folder, where=str(path / MSGPACK)), node["driver"]
            shapes[name] = tuple(node["metadata"]["shape"])
        elif isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}/{key}" if name else key)
        else:
            small[name] = np.asarray(node)
            shapes[name] = small[name].shape

    walk(target, "")

    def read(name: str) -> Any:
        if name in small:
            return small[name]
        import tensorstore

        folder, driver = large[name]
        spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(folder)}}
        try:
            return tensorstore.open(spec, open=True, read=True).result().read().result()
        except ValueError as error:
            raise UserError(f"{folder}: cannot be read ({str(error).splitlines()[0]})") from None

    return Arrays(path, shapes, read, legacy=False)
