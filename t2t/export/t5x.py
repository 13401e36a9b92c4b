"""Checkpoints of T5X and of the T5 before it: named arrays, read one at a time.

- T5X's own layout: CHECKPOINT/checkpoint (msgpack: small arrays, and a description of each large one) and a zarr folder for each large array,
  CHECKPOINT/target.encoder.layers_0.attention.query.kernel.
- The legacy layout of Mesh TensorFlow: a TensorFlow checkpoint, model.ckpt-1000000.index beside its data.

Names are given without "target/", "/" between the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from t2t.errors import UserError

MSGPACK = "checkpoint"
_SLOT = "_slot_"
"""In the names of what Mesh TensorFlow's optimizer keeps."""


class Arrays:
    """Named arrays, opened for reading. legacy: of the Mesh TensorFlow layout, whose names are others."""

    def __init__(
        self, directory: Path, shapes: Mapping[str, tuple[int, ...]], read: Callable[[str], Any], *, legacy: bool
    ):
        self.directory = directory
        self.shapes = dict(shapes)
        self.legacy = legacy
        self._read = read

    @property
    def names(self) -> list[str]:
        """The names of all arrays."""
        return sorted(self.shapes)

    def equal(self, one: str, other: str) -> bool:
        """Whether two arrays are equal."""
        return np.array_equal(self.read(one), self.read(other))

    def read(self, name: str) -> np.ndarray:
        """Return an array in its own type."""
        return np.asarray(self._read(name))


def open_arrays(path: Path) -> Arrays:
    """Open a checkpoint: T5X's directory, or the common beginning of the files of a TensorFlow checkpoint.

    Raises UserError where it is neither.
    """
    if path.is_dir() and (path / MSGPACK).is_file():
        try:
            return _native(path)
        except (ValueError, KeyError, TypeError) as error:
            if not list(path.glob("*.index")):
                raise UserError(f"{path / MSGPACK}: not a checkpoint of T5X ({error})") from None
    prefix = path
    if path.is_dir():
        found = sorted(path.glob("*.index"), key=lambda index: (len(index.name), index.name))
        if not found:
            raise UserError(f"{path}: neither a checkpoint of T5X ({MSGPACK} is missing) nor of TensorFlow (*.index)")
        prefix = found[-1].with_suffix("")
    if not prefix.with_name(prefix.name + ".index").is_file():
        raise UserError(f"{path}: no checkpoint of T5X or TensorFlow")
    return _legacy(prefix)


def _native(path: Path) -> Arrays:
    from flax.serialization import msgpack_restore

    tree = msgpack_restore((path / MSGPACK).read_bytes())
    target = tree["optimizer"]["target"]
    small: dict[str, np.ndarray] = {}
    large: dict[str, tuple[Path, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def walk(node: Any, name: str) -> None:
        if isinstance(node, dict) and "driver" in node:
            folder = path / str(node["kvstore"]["path"]).rstrip("/").rpartition("/")[2]
            large[name] = folder, str(node["driver"])
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


def _legacy(prefix: Path) -> Arrays:
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    shapes = {
        name: tuple(shape)
        for name, shape in reader.get_variable_to_shape_map().items()
        if _SLOT not in name and name != "global_step"
    }
    return Arrays(prefix.parent, shapes, reader.get_tensor, legacy=True)
