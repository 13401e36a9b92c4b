"""Datasets of texts: split them into windows, and map them with a random seed for each example."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import seqio
import tensorflow as tf

Example = dict[str, tf.Tensor]

BLOCK = 32
"""Number of examples in a block of `map_blocks`."""
_CONTROL = {"If", "StatelessIf", "While", "StatelessWhile", "Case", "StatelessCase", "Switch", "Merge"}


def windows(dataset: tf.data.Dataset, length: int | None, *, end: tf.Tensor | None = None) -> tf.data.Dataset:
    """Split the `targets` of each example into runs of `length` tokens; the last run is shorter.

    Args:
      dataset: examples with `targets` of shape [N]. Other fields are dropped, because they describe the whole text.
      length: number of tokens; None for the whole text as one run.
      end: tokens that end a text; appended only if the last run has space, so that no run consists of them alone.

    Returns:
      A dataset of the runs, shape [<= length] each; none for an empty text.
    """

    def rows(example: Example) -> tuple[tf.Tensor, tf.Tensor]:
        ids = example["targets"]
        if end is not None:
            room = tf.size(ids) > 0 if length is None else tf.size(ids) % length > 0
            ids = tf.concat([tf.cast(ids, end.dtype), end[: tf.cast(room, tf.int32)]], 0)
        size = tf.size(ids)
        width = tf.maximum(size if length is None else tf.minimum(size, length), 1)
        count = (size + width - 1) // width
        padded = tf.pad(ids, [[0, count * width - size]])
        lengths = tf.minimum(size - tf.range(count) * width, width)
        return tf.reshape(padded, [count, width]), lengths

    return map_inline(map_inline(dataset, rows).unbatch(), lambda row, size: row[:size])


def map_with_seed(dataset: tf.data.Dataset, function: Callable[[Any, tf.Tensor], Any]) -> tf.data.Dataset:
    """Map `function(element, seed)` over ids [N], or over examples with `targets` [N]. The seed (shape [2], int64) is for stateless random ops.

    SeqIO's seeds are the same stream in every shard of a dataset, so the ids are folded into them.
    """

    def with_seed(element: Any, seed: tf.Tensor) -> Any:
        ids = element["targets"] if isinstance(element, dict) else element
        fingerprint = tf.strings.to_hash_bucket_fast(tf.io.serialize_tensor(ids), 2**31 - 1)
        return function(element, tf.random.experimental.stateless_fold_in(seed, fingerprint))

    pairs = seqio.map_over_dataset(lambda element, seed: (element, seed), num_seeds=1)(dataset)
    return map_inline(pairs, with_seed)


def map_blocks(dataset: tf.data.Dataset, function: Callable[[Example], dict[str, tf.RaggedTensor]]) -> tf.data.Dataset:
    """Map many examples at a time, to share the overhead of each operation.

    Args:
      dataset: the examples.
      function: takes stacked examples, padded with 0; returns the features of the examples, [B, None] each.
    """

    def dense(block: Example) -> tuple[Example, Example]:
        features = function(block)
        rows = {name: values.to_tensor() for name, values in features.items()}
        return rows, {name: tf.cast(values.row_lengths(), tf.int32) for name, values in features.items()}

    def cut(rows: Example, sizes: Example) -> Example:
        return {name: row[: sizes[name]] for name, row in rows.items()}

    return map_inline(map_inline(dataset.padded_batch(BLOCK), dense).unbatch(), cut)


def map_inline(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """Like `Dataset.map`, but runs in the thread that requests an example.

    `Dataset.map` schedules each operation on a thread pool, which costs several times the computation for a text. Functions with branches or
    loops on tensors run as in `Dataset.map`, and so do functions of other elements than tensors.
    """
    spec = dataset.element_spec
    if not all(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(spec)):
        return dataset.map(function)

    def flat(*tensors: tf.Tensor) -> Any:
        element = tf.nest.pack_sequence_as(spec, tensors)
        return function(*element) if isinstance(spec, tuple) else function(element)

    traced = tf.function(flat).get_concrete_function(*tf.nest.flatten(spec))
    outputs = tf.nest.map_structure(lambda tensor: tf.TensorSpec(tensor.shape, tensor.dtype), traced.structured_outputs)
    leaves = tf.nest.flatten(outputs)
    variant = tf.raw_ops.MapDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        other_arguments=traced.captured_inputs,
        f=traced,
        output_types=[leaf.dtype for leaf in leaves],
        output_shapes=[leaf.shape for leaf in leaves],
        use_inter_op_parallelism=_has_control_flow(traced),
        preserve_cardinality=True,
    )
    mapped = tf.data.experimental.from_variant(variant, outputs)
    mapped.traced = traced  # keeps the function alive as long as the dataset
    return mapped


def _has_control_flow(traced: Any) -> bool:
    """Return whether a function has operations that TensorFlow's single-threaded executor does not support."""
    graph = traced.graph.as_graph_def()
    nodes = itertools.chain(graph.node, *(function.node_def for function in graph.library.function))
    return any(node.op in _CONTROL for node in nodes)
