"""Causal and prefix language modelling."""

from __future__ import annotations

import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, end, limit, require
from t2t.tasks.objectives.streams import Example, map_with_seed, windows


def causal_lm(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Turn texts into targets of up to sequence_length["targets"] tokens; `inputs`, where the task has them, are empty.

    EOS follows the text, not every window of it.

    Raises:
      UserError: a targets length below 1.
    """
    require("causal_lm", output_features, "targets")
    targets = output_features["targets"]
    length = limit(sequence_length, "targets")
    _at_least(1, length, "targets_length", "causal_lm")

    def example(ids: tf.Tensor) -> Example:
        made = {"targets": tf.cast(ids, targets.dtype)}
        if "inputs" in output_features:
            made["inputs"] = tf.zeros([0], output_features["inputs"].dtype)
        return made

    return windows(dataset, length, end=end(targets)).map(example, num_parallel_calls=tf.data.AUTOTUNE)


def prefix_lm(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Cut texts at a random place: inputs before it, targets after it.

    A window is as long as the longer of the two features. The place is uniform over all that leave at least one token
    on each side and fit both; with equal lengths (T5's) that is every place. EOS follows the inputs; it follows the
    targets where the text ends.

    Raises:
      UserError: an inputs length below 2 or a targets length below 1.
    """
    require("prefix_lm", output_features, "inputs", "targets")
    inputs, targets = output_features["inputs"], output_features["targets"]
    within, room = limit(sequence_length, "inputs"), limit(sequence_length, "targets")
    _at_least(1 + inputs.add_eos, within, "inputs_length", "prefix_lm")
    _at_least(1, room, "targets_length", "prefix_lm")
    before = None if within is None else within - inputs.add_eos
    length = None if before is None or room is None else max(before, room)

    def cut(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        size = tf.size(ids)
        lowest = tf.minimum(1, size - 1)
        if room is not None:
            lowest = tf.maximum(lowest, size - room)
        highest = tf.maximum(size - 1, lowest)
        if before is not None:
            highest = tf.minimum(highest, before)
        place = tf.random.stateless_uniform([], seed, lowest, highest + 1, tf.int32)
        return {
            "inputs": tf.concat([tf.cast(ids[:place], inputs.dtype), end(inputs)], 0),
            "targets": tf.cast(ids[place:], targets.dtype),
        }

    return map_with_seed(windows(dataset, length, end=end(targets)), cut)


def _at_least(lowest: int, length: int | None, name: str, objective: str) -> None:
    if length is not None and length < lowest:
        raise UserError(f"{name}={length} is too short for {objective}: it needs at least {lowest}.")
