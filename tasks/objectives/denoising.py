"""Texts corrupted in other ways than span corruption: the alternatives that T5 compares.

T5 (Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.3 and table 3) sets them side by side:

| in T5's tables | here |
| --- | --- |
| BERT-style (Devlin et al. 2019) | `masked_denoising(replaced=0.1)` |
| MASS-style (Song et al. 2019) | `masked_denoising` |
| i.i.d. noise, replace spans | `replaced_tokens` |
| i.i.d. noise, drop tokens | `dropped_tokens` |
| deshuffling (Liu et al. 2019) | `deshuffling` |
| random spans | `span_corruption` |

The number of noise tokens of a text is exact in all of them, round(n * rate), at least one and at most n - 1. BART's are in `infilling`.
"""

from __future__ import annotations

from collections.abc import Callable

import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, end, limit, require
from t2t.tasks.objectives.lengths import longest
from t2t.tasks.objectives.special import ordinary_ids, with_mask
from t2t.tasks.objectives.streams import Example, map_with_seed, windows


def masked_denoising(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    replaced: float = 0.0,
) -> tf.data.Dataset:
    """Hide tokens in the inputs; the targets are the whole text.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, EOS included.
      output_features: `inputs` and `targets` over one vocabulary that has a mask.
      rate: share of the tokens that are hidden.
      replaced: share of those that become another token in place of the mask; T5's BERT-style objective has 0.1.

    Raises:
      UserError: a share out of range, a vocabulary without a mask, or no room for two tokens.
    """
    name = "masked_denoising"
    check_rate(name, rate)
    if not 0 <= replaced <= 1:
        raise UserError(f"replaced={replaced} of {name}: must be between 0 and 1; T5's BERT-style objective has 0.1.")
    inputs, targets, length = window(name, sequence_length, output_features)
    vocabulary, mask_id = with_mask(name, targets)
    others = tf.constant(ordinary_ids(vocabulary), tf.int32)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        score, fate, draw = tf.unstack(tf.random.stateless_uniform([3, tf.size(ids)], seed))
        drawn = tf.gather(others, tf.cast(draw * tf.cast(tf.size(others), tf.float32), tf.int32))
        hidden = tf.where(fate < replaced, drawn, mask_id)
        made = tf.where(chosen_tokens(score, rate), hidden, ids)
        return {"inputs": append_eos(made, inputs), "targets": append_eos(ids, targets)}

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def replaced_tokens(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, rate: float = 0.15
) -> tf.data.Dataset:
    """Put one sentinel in place of each run of noise tokens chosen independently; the targets tell what each stands for.

    As `span_corruption`, but where noise falls does not depend on where other noise is: runs are short, 1 / (1 - rate) tokens on
    average. A text may begin and end with noise. A sentinel that stands in the text itself becomes the unknown token.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the inputs, EOS included, and short enough for the targets with a sentinel a token.
      output_features: `inputs` and `targets` over one vocabulary with sentinels.
      rate: share of the tokens that are noise.

    Raises:
      UserError: a share out of range, no room for two tokens, or too few sentinels for them.
    """
    name = "replaced_tokens"
    check_rate(name, rate)
    vocabulary = output_features["targets"].vocabulary
    inputs, targets, length = window(
        name, sequence_length, output_features, lambda n: (n, 2 * _noise(n, rate)), most=vocabulary.extra_ids, rate=rate
    )

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        ids = tf.where(ids < vocabulary.vocab_size - vocabulary.extra_ids, ids, vocabulary.unk_id)
        noise = chosen_tokens(tf.random.stateless_uniform([tf.size(ids)], seed), rate)
        starts = tf.logical_and(noise, tf.logical_not(tf.concat([[False], noise[:-1]], 0)))
        pairs = tf.stack([vocabulary.vocab_size - tf.cumsum(tf.cast(starts, tf.int32)), ids], 1)
        return {
            "inputs": append_eos(tf.boolean_mask(pairs, tf.stack([starts, tf.logical_not(noise)], 1)), inputs),
            "targets": append_eos(tf.boolean_mask(pairs, tf.stack([starts, noise], 1)), targets),
        }

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def dropped_tokens(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, rate: float = 0.15
) -> tf.data.Dataset:
    """Leave tokens out of the inputs without a sign of it; the targets are those tokens, in order.

    The field `dropped`, 1 at each token of the text that was left out, is for people to look at.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as lets both features hold what falls to them.
      output_features: `inputs` and `targets`.
      rate: share of the tokens that are left out.

    Raises:
      UserError: a share out of range, or no room for two tokens.
    """
    name = "dropped_tokens"
    check_rate(name, rate)
    inputs, targets, length = window(
        name, sequence_length, output_features, lambda n: (n - _noise(n, rate), _noise(n, rate))
    )

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        noise = chosen_tokens(tf.random.stateless_uniform([tf.size(ids)], seed), rate)
        return {
            "inputs": append_eos(tf.boolean_mask(ids, tf.logical_not(noise)), inputs),
            "targets": append_eos(tf.boolean_mask(ids, noise), targets),
            "dropped": tf.cast(noise, tf.int32),
        }

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def deshuffling(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Put the inputs' tokens in a random order, each as likely as any other; the targets are the text.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, EOS included.
      output_features: `inputs` and `targets`.

    Raises:
      UserError: no room for two tokens.
    """
    inputs, targets, length = window("deshuffling", sequence_length, output_features)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        order = tf.argsort(tf.random.stateless_uniform([tf.size(ids)], seed))
        return {"inputs": append_eos(tf.gather(ids, order), inputs), "targets": append_eos(ids, targets)}

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def _noise(length: int, rate: float) -> int:
    """Return the number of noise tokens in a text: at least one, and one is kept; none of a single token."""
    return min(max(round(length * rate), 1), length - 1) if length > 1 else 0


def chosen_tokens(score: tf.Tensor, rate: float) -> tf.Tensor:
    """Return a mask of the noise: where the scores, shape [N], are lowest."""
    size = tf.size(score)
    # Python's and TensorFlow's rounding are the same: halves go to the even number.
    count = tf.cast(tf.round(tf.cast(size, tf.float64) * rate), tf.int32)
    count = tf.minimum(tf.maximum(count, 1), size - 1)
    order = tf.argsort(score)
    return tf.scatter_nd(order[:count, None], tf.ones([count], tf.int32), [size]) > 0


def check_rate(objective: str, rate: float) -> None:
    """Raise UserError unless 0 < rate < 1."""
    if not 0 < rate < 1:
        raise UserError(f"rate={rate} of {objective}: must be between 0 and 1.")


def append_eos(ids: tf.Tensor, feature: seqio.Feature) -> tf.Tensor:
    """Return ids in the feature's type, with its end."""
    return tf.concat([tf.cast(ids, feature.dtype), end(feature)], 0)


def on_int32(corrupt: Callable[[tf.Tensor, tf.Tensor], Example]) -> Callable[[tf.Tensor, tf.Tensor], Example]:
    """Return the function for ids of any integer type."""
    return lambda ids, seed: corrupt(tf.cast(ids, tf.int32), seed)


def window(
    objective: str,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    needs: Callable[[int], tuple[int, int]] = lambda n: (n, n),
    *,
    most: int | None = None,
    rate: float = 0.0,
) -> tuple[seqio.Feature, seqio.Feature, int | None]:
    """Return both features and how many tokens of text an example takes, None for all.

    needs: tokens of text -> the most tokens of inputs and of targets, EOS not counted.
    most:  noise tokens that an example may have.
    """
    require(objective, output_features, "inputs", "targets")
    inputs, targets = output_features["inputs"], output_features["targets"]
    within, room = limit(sequence_length, "inputs"), limit(sequence_length, "targets")

    def fits(length: int) -> bool:
        made = needs(length)
        return (
            (within is None or made[0] + inputs.add_eos <= within)
            and (room is None or made[1] + targets.add_eos <= room)
            and (most is None or _noise(length, rate) <= most)
        )

    if within is None and room is None and most is None:
        return inputs, targets, None
    length = longest(fits)
    if length < 2:
        raise UserError(
            f"inputs_length={within}, targets_length={room} are too short for {objective}: it needs room for two tokens of text"
            + (f", and a sentinel for each hidden token; the vocabulary has {most}." if most is not None else ".")
        )
    return inputs, targets, length
