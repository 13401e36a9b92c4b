"""Examples that come over from TensorFlow many at a time: one by one costs more than packing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from t2t.data.converters import Example

BLOCK = 32
"""Examples at a time."""
_NOTHING = {tf.int32: np.int32(-(2**31)), tf.float32: np.float32(-np.inf)}
"""What stands behind the end of a feature and in none: no id, no weight."""


def blocks(dataset: tf.data.Dataset, size: int = BLOCK) -> tf.data.Dataset:
    """Return `size` examples at a time, each feature [size, L] (int32 or float32), the last ones fewer.

    Not ragged batches: those call a function for each feature of an example, which costs more than all the rest here.
    """
    return dataset.padded_batch(
        size, padding_values={k: _NOTHING[spec.dtype] for k, spec in dataset.element_spec.items()}
    )


def stacked(
    block: Mapping[str, tf.Tensor], features: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a block's features, [N, L], and how many of the L are each example's, [N]."""
    arrays = {name: block[name].numpy() for name in features}
    return arrays, {
        name: np.count_nonzero(array != _NOTHING[block[name].dtype], axis=1) for name, array in arrays.items()
    }


def unstacked(block: Mapping[str, tf.Tensor], features: Sequence[str]) -> list[Example]:
    """Return a block's examples as they are."""
    arrays, sizes = stacked(block, features)
    return [{name: arrays[name][i, : sizes[name][i]] for name in features} for i in range(len(arrays[features[0]]))]
