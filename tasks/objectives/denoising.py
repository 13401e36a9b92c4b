"""Corruption of texts other than span corruption: the alternatives that T5 compares.

See T5 (Raffel et al. 2020, https://arxiv.org/abs/1910.10683), section 3.3 and table 3:

| name in T5's tables | function |
| --- | --- |
| BERT-style (Devlin et al. 2019) | `masked_denoising(replaced=0.1)` |
| MASS-style (Song et al. 2019) | `masked_denoising` |
| i.i.d. noise, replace spans | `replaced_tokens` |
| i.i.d. noise, drop tokens | `dropped_tokens` |
| deshuffling (Liu et al. 2019) | `deshuffling` |
| random spans | `span_corruption` |

All of them use exactly round(n * rate) noise tokens in a text of n tokens, at least 1 and at most n - 1. BART's objectives are in
`infilling`.
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
    """Mask tokens in the inputs; the targets are the whole text.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, including EOS.
      output_features: `inputs` and `targets` over one vocabulary that has a mask token.
      rate: fraction of the tokens to corrupt.
      replaced: fraction of these that become another token instead of the mask; T5's BERT-style objective uses 0.1.

    Raises:
      UserError: a fraction out of range, a vocabulary without a mask, or no space for two tokens.
    """
    name = "masked_denoising"
    check_rate(name, rate)
    if not 0 <= replaced <= 1:
        raise UserError(f"replaced={replaced} of {name}: must be between 0 and 1; T5's BERT-style objective uses 0.1.")
    inputs, targets, length = window(name, sequence_length, output_features)
    vocabulary, mask_id = with_mask(name, targets)
    others = tf.constant(ordinary_ids(vocabulary), tf.int32)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        score, fate, draw = tf.unstack(tf.random.stateless_uniform([3, tf.size(ids)], seed))
        drawn = tf.gather(others, tf.cast(draw * tf.cast(tf.size(others), tf.float32), tf.int32))
        hidden = tf.where(fate < replaced, drawn, mask_id)
        corrupted = tf.where(chosen_tokens(score, rate), hidden, ids)
        return {"inputs": append_eos(corrupted, inputs), "targets": append_eos(ids, targets)}

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def replaced_tokens(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, rate: float = 0.15
) -> tf.data.Dataset:
    """Replace each run of noise tokens, chosen independently, by one sentinel; the targets list the tokens for each sentinel.

    Like `span_corruption`, but noise tokens are independent of each other: runs are short, 1 / (1 - rate) tokens on average. A text
    may start and end with noise. A sentinel that occurs in the text itself becomes the unknown token.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the inputs, including EOS, but short enough that the targets fit with one sentinel for each
        noise token.
      output_features: `inputs` and `targets` over one vocabulary with sentinels.
      rate: fraction of the tokens that are noise.

    Raises:
      UserError: a fraction out of range, no space for two tokens, or too few sentinels for them.
    """
    name = "replaced_tokens"
    check_rate(name, rate)
    vocabulary = output_features["targets"].vocabulary
    inputs, targets, length = window(
        name,
        sequence_length,
        output_features,
        lambda n: (n, 2 * _noise(n, rate)),
        max_noise=vocabulary.extra_ids,
        rate=rate,
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
    """Drop tokens from the inputs without a marker; the targets are these tokens, in order.

    The field `dropped`, 1 at each dropped token of the text, is for inspection.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as possible so that both features fit.
      output_features: `inputs` and `targets`.
      rate: fraction of the tokens to drop.

    Raises:
      UserError: a fraction out of range, or no space for two tokens.
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
    """Shuffle the tokens of the inputs uniformly; the targets are the text.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, including EOS.
      output_features: `inputs` and `targets`.

    Raises:
      UserError: no space for two tokens.
    """
    inputs, targets, length = window("deshuffling", sequence_length, output_features)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        order = tf.argsort(tf.random.stateless_uniform([tf.size(ids)], seed))
        return {"inputs": append_eos(tf.gather(ids, order), inputs), "targets": append_eos(ids, targets)}

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def _noise(length: int, rate: float) -> int:
    """Return the number of noise tokens in a text: at least 1 and at most `length` - 1; 0 for a single token."""
    return min(max(round(length * rate), 1), length - 1) if length > 1 else 0


def chosen_tokens(score: tf.Tensor, rate: float) -> tf.Tensor:
    """Return a bool mask of the noise: the tokens with the lowest scores, shape [N]."""
    size = tf.size(score)
    # Python and TensorFlow both round halves to even.
    count = tf.cast(tf.round(tf.cast(size, tf.float64) * rate), tf.int32)
    count = tf.minimum(tf.maximum(count, 1), size - 1)
    order = tf.argsort(score)
    return tf.scatter_nd(order[:count, None], tf.ones([count], tf.int32), [size]) > 0


def check_rate(objective: str, rate: float) -> None:
    """Raise UserError unless 0 < rate < 1."""
    if not 0 < rate < 1:
        raise UserError(f"rate={rate} of {objective}: must be between 0 and 1.")


def append_eos(ids: tf.Tensor, feature: seqio.Feature) -> tf.Tensor:
    """Return ids in the feature's dtype, with EOS if the feature has it."""
    return tf.concat([tf.cast(ids, feature.dtype), end(feature)], 0)


def on_int32(corrupt: Callable[[tf.Tensor, tf.Tensor], Example]) -> Callable[[tf.Tensor, tf.Tensor], Example]:
    """Return the function with its ids cast to int32."""
    return lambda ids, seed: corrupt(tf.cast(ids, tf.int32), seed)


def window(
    objective: str,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    needs: Callable[[int], tuple[int, int]] = lambda n: (n, n),
    *,
    max_noise: int | None = None,
    rate: float = 0.0,
) -> tuple[seqio.Feature, seqio.Feature, int | None]:
    """Return both features and the number of text tokens in an example, None for unlimited.

    Args:
      objective: name for messages.
      sequence_length: maximum lengths of `inputs` and `targets`.
      output_features: the task's features.
      needs: function from text tokens to the maximum numbers of input and target tokens, without EOS.
      most: maximum number of noise tokens in an example.
      rate: fraction of noise tokens, for `most`.
    """
    require(objective, output_features, "inputs", "targets")
    inputs, targets = output_features["inputs"], output_features["targets"]
    inputs_length, targets_length = limit(sequence_length, "inputs"), limit(sequence_length, "targets")

    def fits(length: int) -> bool:
        lengths = needs(length)
        return (
            (inputs_length is None or lengths[0] + inputs.add_eos <= inputs_length)
            and (targets_length is None or lengths[1] + targets.add_eos <= targets_length)
            and (max_noise is None or _noise(length, rate) <= max_noise)
        )

    if inputs_length is None and targets_length is None and max_noise is None:
        return inputs, targets, None
    length = longest(fits)
    if length < 2:
        raise UserError(
            f"inputs_length={inputs_length}, targets_length={targets_length} are too short for {objective}: it needs space for two tokens of text"
            + (
                f", and a sentinel for each hidden token; the vocabulary has {max_noise}."
                if max_noise is not None
                else "."
            )
        )
    return inputs, targets, length
