"""Read TensorFlow checkpoints of T5 models from before T5X (Mesh TensorFlow). Reading one imports TensorFlow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.export.t5x import Arrays

_SLOT = "_slot_"
"""Part of the names of optimizer states."""


def prefix_of(path: Path) -> Path | None:
    """Return the common prefix of a TensorFlow checkpoint's files, or None if there is no checkpoint. A directory gives its newest checkpoint."""
    if path.is_dir():
        found = sorted(path.glob("*.index"), key=lambda index: (len(index.name), index.name))
        return found[-1].with_suffix("") if found else None
    return path if path.with_name(path.name + ".index").is_file() else None


def open_arrays(prefix: Path) -> Arrays:
    """Open a checkpoint without its optimizer states. Raises UserError, here or when an array is read, if the checkpoint is damaged."""
    import tensorflow as tf

    @contextlib.contextmanager
    def one_line_errors() -> Iterator[None]:
        try:
            yield
        except (tf.errors.OpError, ValueError, IndexError, RuntimeError) as error:
            reason = error.message if isinstance(error, tf.errors.OpError) else str(error)
            raise UserError(
                f"{prefix}: cannot be read as a TensorFlow checkpoint ({' '.join(reason.split())[:200]})"
            ) from None

    with one_line_errors():
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {
            name: tuple(shape)
            for name, shape in reader.get_variable_to_shape_map().items()
            if _SLOT not in name and name != "global_step"
        }

    def read(name: str) -> Any:
        with one_line_errors():
            return reader.get_tensor(name)

    return Arrays(prefix.parent, shapes, read, legacy=True)
