"""Texts corrupted in other ways than span corruption: the alternatives that T5, BART and MASS compare.

T5 (Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.3 and table 3) sets them side by side:

| in T5's tables | here |
| --- | --- |
| BERT-style (Devlin et al. 2019) | `masked_denoising(replaced=0.1)` |
| MASS-style (Song et al. 2019) | `masked_denoising` |
| i.i.d. noise, replace spans | `replaced_tokens` |
| i.i.d. noise, drop tokens | `dropped_tokens` |
| deshuffling (Liu et al. 2019) | `deshuffling` |
| random spans | `span_corruption` |

`text_infilling` is BART's (Lewis et al. 2020, https://arxiv.org/abs/1910.13461, section 2.2). The number of noise tokens of a text
is exact in all of them, round(n * rate), at least one and at most n - 1.
"""

from __future__ import annotations

from collections.abc import Callable

import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, end, limit, require
from t2t.tasks.objectives.lengths import longest
from t2t.tasks.objectives.masking import ordinary_ids, with_mask
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
    _check(name, rate)
    if not 0 <= replaced <= 1:
        raise UserError(f"replaced={replaced} of {name}: must be between 0 and 1; T5's BERT-style objective has 0.1.")
    inputs, targets, length = _window(name, sequence_length, output_features)
    vocabulary, mask_id = with_mask(name, targets)
    others = tf.constant(ordinary_ids(vocabulary), tf.int32)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        score, fate, draw = tf.unstack(tf.random.stateless_uniform([3, tf.size(ids)], seed))
        drawn = tf.gather(others, tf.cast(draw * tf.cast(tf.size(others), tf.float32), tf.int32))
        hidden = tf.where(fate < replaced, drawn, mask_id)
        made = tf.where(_chosen(score, rate), hidden, ids)
        return {"inputs": _closed(made, inputs), "targets": _closed(ids, targets)}

    return map_with_seed(windows(dataset, length), _on_int32(corrupt))


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
    _check(name, rate)
    vocabulary = output_features["targets"].vocabulary
    inputs, targets, length = _window(
        name, sequence_length, output_features, lambda n: (n, 2 * _noise(n, rate)), most=vocabulary.extra_ids, rate=rate
    )

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        ids = tf.where(ids < vocabulary.vocab_size - vocabulary.extra_ids, ids, vocabulary.unk_id)
        noise = _chosen(tf.random.stateless_uniform([tf.size(ids)], seed), rate)
        starts = tf.logical_and(noise, tf.logical_not(tf.concat([[False], noise[:-1]], 0)))
        pairs = tf.stack([vocabulary.vocab_size - tf.cumsum(tf.cast(starts, tf.int32)), ids], 1)
        return {
            "inputs": _closed(tf.boolean_mask(pairs, tf.stack([starts, tf.logical_not(noise)], 1)), inputs),
            "targets": _closed(tf.boolean_mask(pairs, tf.stack([starts, noise], 1)), targets),
        }

    return map_with_seed(windows(dataset, length), _on_int32(corrupt))


def dropped_tokens(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, rate: float = 0.15
) -> tf.data.Dataset:
    """Leave tokens out of the inputs without a sign of it; the targets are those tokens, in order.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as lets both features hold what falls to them.
      output_features: `inputs` and `targets`.
      rate: share of the tokens that are left out.

    Raises:
      UserError: a share out of range, or no room for two tokens.
    """
    name = "dropped_tokens"
    _check(name, rate)
    inputs, targets, length = _window(
        name, sequence_length, output_features, lambda n: (n - _noise(n, rate), _noise(n, rate))
    )

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        noise = _chosen(tf.random.stateless_uniform([tf.size(ids)], seed), rate)
        return {
            "inputs": _closed(tf.boolean_mask(ids, tf.logical_not(noise)), inputs),
            "targets": _closed(tf.boolean_mask(ids, noise), targets),
        }

    return map_with_seed(windows(dataset, length), _on_int32(corrupt))


def deshuffling(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Put the inputs' tokens in a random order, each as likely as any other; the targets are the text.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, EOS included.
      output_features: `inputs` and `targets`.

    Raises:
      UserError: no room for two tokens.
    """
    inputs, targets, length = _window("deshuffling", sequence_length, output_features)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        order = tf.argsort(tf.random.stateless_uniform([tf.size(ids)], seed))
        return {"inputs": _closed(tf.gather(ids, order), inputs), "targets": _closed(ids, targets)}

    return map_with_seed(windows(dataset, length), _on_int32(corrupt))


def text_infilling(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.3,
    mean_span: float = 3.0,
) -> tf.data.Dataset:
    """Put one mask in place of each of some spans, of lengths drawn from a Poisson distribution; the targets are the text.

    A span of length 0 puts a mask where nothing was. Spans are drawn until they cover round(n * rate) tokens, the last one made
    to end there. They do not touch each other, and there are no more of them than tokens hidden, so that the inputs are not longer
    than the text.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, EOS included.
      output_features: `inputs` and `targets` over one vocabulary that has a mask.
      rate: share of the tokens that are hidden; BART's is 0.3.
      mean_span: mean of the Poisson distribution; BART's is 3.

    Raises:
      UserError: a share out of range, mean_span not above 0, a vocabulary without a mask, or no room for two tokens.
    """
    name = "text_infilling"
    _check(name, rate)
    if not mean_span > 0:
        raise UserError(f"mean_span={mean_span} of {name}: must be above 0; BART's is 3.")
    inputs, targets, length = _window(name, sequence_length, output_features)
    _, mask_id = with_mask(name, targets)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        noise = tf.reduce_sum(tf.cast(_chosen(tf.zeros_like(ids), rate), tf.int32))
        kept = tf.size(ids) - noise
        seeds = tf.random.split(tf.cast(seed, tf.int32), 2)
        drawn = tf.random.stateless_poisson([noise], seeds[0], mean_span, tf.int32)
        before = tf.cumsum(drawn, exclusive=True)
        spans = tf.minimum(tf.reduce_sum(tf.cast(before < noise, tf.int32)), kept)
        lengths = tf.minimum(drawn, noise - before)[: spans - 1]
        lengths = tf.concat([lengths, [noise - tf.reduce_sum(lengths)]], 0)[:spans]
        # Each span stands before another of the tokens that are kept, or behind the last: one gap more than there are of them.
        gaps = kept + 1
        places = tf.sort(tf.argsort(tf.random.stateless_uniform([gaps], seeds[1]))[:spans])[:, None]
        marked = tf.scatter_nd(places, tf.ones([spans], tf.int32), [gaps]) > 0
        # Where in the text the token behind a gap is.
        at = tf.range(gaps) + tf.cumsum(tf.scatter_nd(places, lengths, [gaps]))
        made = tf.stack([tf.fill([gaps], mask_id), tf.gather(tf.pad(ids, [[0, 1]]), at)], 1)
        shown = tf.stack([marked, tf.range(gaps) < kept], 1)
        return {
            "inputs": _closed(tf.boolean_mask(made, shown), inputs),
            "targets": _closed(ids, targets),
        }

    return map_with_seed(windows(dataset, length), _on_int32(corrupt))


def _noise(length: int, rate: float) -> int:
    """Return the number of noise tokens in a text: at least one, and one is kept; none of a single token."""
    return min(max(round(length * rate), 1), length - 1) if length > 1 else 0


def _chosen(score: tf.Tensor, rate: float) -> tf.Tensor:
    """Return a mask of the noise: where the scores, shape [N], are lowest."""
    size = tf.size(score)
    # Python's and TensorFlow's rounding are the same: halves go to the even number.
    count = tf.cast(tf.round(tf.cast(size, tf.float64) * rate), tf.int32)
    count = tf.minimum(tf.maximum(count, 1), size - 1)
    order = tf.argsort(score)
    return tf.scatter_nd(order[:count, None], tf.ones([count], tf.int32), [size]) > 0


def _check(objective: str, rate: float) -> None:
    if not 0 < rate < 1:
        raise UserError(f"rate={rate} of {objective}: must be between 0 and 1.")


def _closed(ids: tf.Tensor, feature: seqio.Feature) -> tf.Tensor:
    """Return ids in the feature's type, with its end."""
    return tf.concat([tf.cast(ids, feature.dtype), end(feature)], 0)


def _on_int32(corrupt: Callable[[tf.Tensor, tf.Tensor], Example]) -> Callable[[tf.Tensor, tf.Tensor], Example]:
    return lambda ids, seed: corrupt(tf.cast(ids, tf.int32), seed)


def _window(
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
