"""Causal language modelling, prefix language modelling and fill-in-the-middle."""

from __future__ import annotations

import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, end, limit, require
from t2t.tasks.objectives.streams import Example, map_with_seed, windows


def causal_lm(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Convert texts to targets of up to sequence_length["targets"] tokens; `inputs`, if the task has them, are empty.

    EOS follows the text, not each window. A text that exactly fills its last window gets no EOS.

    Raises:
      UserError: a targets length below 1.
    """
    require("causal_lm", output_features, "targets")
    targets = output_features["targets"]
    length = limit(sequence_length, "targets")
    _at_least(1, length, "targets_length", "causal_lm")

    def example(ids: tf.Tensor) -> Example:
        features = {"targets": tf.cast(ids, targets.dtype)}
        if "inputs" in output_features:
            features["inputs"] = tf.zeros([0], output_features["inputs"].dtype)
        return features

    return windows(dataset, length, end=end(targets)).map(example, num_parallel_calls=tf.data.AUTOTUNE)


def prefix_lm(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, suffix: float = 0.5
) -> tf.data.Dataset:
    """Cut texts at a random position: the inputs are before it, the targets after it.

    A window is as long as the longer of the two features. The position is uniform over all positions that leave at least
    one token on each side and fit both features; with equal lengths (as in T5) these are all positions. EOS follows the
    inputs. EOS follows the targets if the text ends there and its last window has space.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: maximum lengths of `inputs` and `targets`; each may be unlimited.
      output_features: `inputs` and `targets`.
      suffix: mean fraction of a text in the targets: of n tokens, their length is uniform from 1 to 2 * suffix * n - 1. T5
        uses 0.5, UL2's S-denoiser 0.25.

    Raises:
      UserError: a suffix out of range, an inputs length below 2 or a targets length below 1.
    """
    require("prefix_lm", output_features, "inputs", "targets")
    if not 0 < suffix <= 0.5:
        raise UserError(f"suffix={suffix} of prefix_lm: must be above 0 and at most 0.5; T5 uses 0.5.")
    inputs, targets = output_features["inputs"], output_features["targets"]
    inputs_length, targets_length = limit(sequence_length, "inputs"), limit(sequence_length, "targets")
    _at_least(1 + inputs.add_eos, inputs_length, "inputs_length", "prefix_lm")
    _at_least(1, targets_length, "targets_length", "prefix_lm")
    max_inputs = None if inputs_length is None else inputs_length - inputs.add_eos
    length = None if max_inputs is None or targets_length is None else max(max_inputs, targets_length)

    def cut(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        size = tf.size(ids)
        mean = tf.cast(size, tf.float32) * suffix
        longest = tf.maximum(tf.cast(tf.round(2 * mean), tf.int32) - 1, 1)
        lowest = tf.minimum(tf.maximum(size - longest, 1), size - 1)
        if targets_length is not None:
            lowest = tf.maximum(lowest, size - targets_length)
        highest = tf.maximum(size - 1, lowest)
        if max_inputs is not None:
            highest = tf.minimum(highest, max_inputs)
        cut_position = tf.random.stateless_uniform([], seed, lowest, highest + 1, tf.int32)
        return {
            "inputs": tf.concat([tf.cast(ids[:cut_position], inputs.dtype), end(inputs)], 0),
            "targets": tf.cast(ids[cut_position:], targets.dtype),
        }

    return map_with_seed(windows(dataset, length, end=end(targets)), cut)


def fill_in_the_middle(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.5,
    suffix_first: float = 0.5,
) -> tf.data.Dataset:
    """Move the middle of texts to the end, so that a causal decoder learns to generate it from both sides.

    A text becomes `<0> prefix <1> suffix <2> middle`, or with the suffix first `<0> <1> suffix <2> prefix middle`, followed by EOS.
    The sentinels count down from the top of the vocabulary. Both cuts are uniform over the positions between tokens, so each of the
    three parts may be empty. The other texts are as in `causal_lm`. Source: Bavarian et al. 2022, https://arxiv.org/abs/2207.14255,
    sections 3 and 4. The paper cuts between characters and uses a rate of 0.5, half of it with the suffix first.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as sequence_length["targets"] without the three sentinels and EOS.
      output_features: `targets`, over a vocabulary with three sentinels; `inputs`, if the task has them, are empty.
      rate: fraction of the texts whose middle is moved.
      suffix_first: fraction of these with the suffix first.

    Raises:
      UserError: a fraction out of range, too few sentinels, or a targets length below 5.
    """
    name = "fill_in_the_middle"
    require(name, output_features, "targets")
    for parameter, share in (("rate", rate), ("suffix_first", suffix_first)):
        if not 0 <= share <= 1:
            raise UserError(f"{parameter}={share} of {name}: must be between 0 and 1; the paper uses 0.5.")
    targets = output_features["targets"]
    vocabulary = targets.vocabulary
    if vocabulary.extra_ids < 3:
        raise UserError(f"{name}: the vocabulary has {vocabulary.extra_ids} sentinels; give it extra_ids=3 or more.")
    length = limit(sequence_length, "targets")
    _at_least(4 + targets.add_eos, length, "targets_length", name)
    before, between, after = (tf.constant([vocabulary.vocab_size - 1 - i], targets.dtype) for i in range(3))

    def example(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        ids = tf.cast(ids, targets.dtype)
        draws = tf.random.stateless_uniform([4], seed)
        cuts = tf.cast(tf.sort(draws[:2]) * tf.cast(tf.size(ids) + 1, tf.float32), tf.int32)
        prefix, middle, suffix = ids[: cuts[0]], ids[cuts[0] : cuts[1]], ids[cuts[1] :]
        moved = tf.where(
            draws[3] < suffix_first,
            tf.concat([before, between, suffix, after, prefix, middle], 0),
            tf.concat([before, prefix, between, suffix, after, middle], 0),
        )
        features = {"targets": tf.concat([moved if draws[2] < rate else ids, end(targets)], 0)}
        if "inputs" in output_features:
            features["inputs"] = tf.zeros([0], output_features["inputs"].dtype)
        return features

    text_length = None if length is None else length - 3 - targets.add_eos
    return map_with_seed(windows(dataset, text_length), example)


def _at_least(lowest: int, length: int | None, name: str, objective: str) -> None:
    if length is not None and length < lowest:
        raise UserError(f"{name}={length} is too short for {objective}: it needs at least {lowest}.")
