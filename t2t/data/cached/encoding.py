"""Encode examples as bytes and decode them. The format is `tf.train.Example`, as in SeqIO's own caches and TFDS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from t2t.data.cached.manifest import Field

_LISTS = {
    **dict.fromkeys(("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "bool"), tf.int64),
    "float32": tf.float32,
    "string": tf.string,
}


def encode(example: Mapping[str, Any], fields: Mapping[str, Field]) -> bytes:
    """Return an example, a mapping from names to NumPy values, as bytes."""
    return tf.train.Example(
        features=tf.train.Features(feature={name: _feature(example[name], field) for name, field in fields.items()})
    ).SerializeToString(deterministic=True)


def decode(records: tf.Tensor, fields: Mapping[str, Field]) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Decode a batch of examples from strings [N] to arrays by name, [N] or ragged [N, None].

    `finish` then restores the types and shapes that each example had before `encode`.
    """
    wanted = {
        name: tf.io.RaggedFeature(_LISTS[field.dtype], row_splits_dtype=tf.int64)
        if _as_list(field) and field.rank
        else tf.io.FixedLenFeature([], _LISTS[field.dtype] if _as_list(field) else tf.string)
        for name, field in fields.items()
    }
    return tf.io.parse_example(records, wanted)


def finish(example: Mapping[str, tf.Tensor], fields: Mapping[str, Field]) -> dict[str, tf.Tensor]:
    """Return one example of `decode` with the types and shapes of its fields."""
    result = {}
    for name, field in fields.items():
        value = example[name]
        if _as_list(field):
            value = tf.cast(value, field.dtype) if field.dtype != "string" else value
        else:
            value = tf.io.parse_tensor(value, tf.as_dtype(field.dtype))
        result[name] = tf.ensure_shape(value, [None] * field.rank)
    return result


def _as_list(field: Field) -> bool:
    """Return whether the field is stored as a list of `tf.train.Example`. Other fields are stored as serialized tensors."""
    return field.rank < 2 and field.dtype in _LISTS


def _feature(value: Any, field: Field) -> tf.train.Feature:
    if not _as_list(field):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(value).numpy()]))
    if field.dtype == "string":  # not via NumPy's bytes type, which drops zeros at the end
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=list(value) if field.rank else [value]))
    values = np.reshape(value, [-1]).tolist()
    if field.dtype == "float32":
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
