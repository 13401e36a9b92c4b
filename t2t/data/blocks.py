"""Transfer examples from TensorFlow in blocks. One at a time, the transfer costs more than packing them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from t2t.data.converters import Example

BLOCK = 32
"""Examples in a block."""
_PADDING = {tf.int32: np.int32(-(2**31)), tf.float32: np.float32(-np.inf)}
"""Padding values of a block. No feature has them: they are neither ids nor weights."""


def blocks(dataset: tf.data.Dataset, size: int = BLOCK) -> tf.data.Dataset:
    """Return batches of `size` examples, each feature [size, L] (int32 or float32). The last batch may be smaller.

    Ragged batches would be slower: they call a function for each feature of each example.
    """
    return dataset.padded_batch(
        size, padding_values={k: _PADDING[spec.dtype] for k, spec in dataset.element_spec.items()}
    )


def stacked(
    block: Mapping[str, tf.Tensor], features: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a block's features, [N, L], and the length of each in each example, [N]."""
    arrays = {name: block[name].numpy() for name in features}
    return arrays, {
        name: np.count_nonzero(array != _PADDING[block[name].dtype], axis=1) for name, array in arrays.items()
    }


def unstacked(block: Mapping[str, tf.Tensor], features: Sequence[str]) -> list[Example]:
    """Return the examples of a block, without the padding."""
    arrays, sizes = stacked(block, features)
    return [{name: arrays[name][i, : sizes[name][i]] for name in features} for i in range(len(arrays[features[0]]))]
