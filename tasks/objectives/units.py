"""Choices of whole units to mask: words, entities, and SpanBERT's spans of them. See `masker.Choice`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from t2t.tasks.objectives.masker import Choice, rounded_count


def whole_units(starts: tf.Tensor, *, as_one: bool = False) -> Choice:
    """Choose whole units in random order, while more than half of each fits in round(n * rate) of n tokens; at least one unit.

    The number of chosen tokens is thus as close to this number as whole units allow, above it as often as below, unless the first unit alone
    is longer.

    Args:
      starts: where a unit starts, bool [N]; the first token starts one.
      as_one: whether all tokens of a unit are masked, replaced or kept as one; otherwise each token is drawn independently.
    """

    def choose(
        ids: tf.Tensor, candidates: tf.Tensor, draws: tf.Tensor, rate: float, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        unit = tf.cumsum(tf.cast(starts, tf.int32)) - 1
        sizes = tf.math.segment_sum(tf.cast(candidates, tf.int32), unit)
        count = rounded_count(tf.reduce_sum(sizes), rate)
        order = tf.argsort(tf.where(sizes > 0, tf.boolean_mask(draws, starts), 2.0))
        ordered = tf.gather(sizes, order)
        fits = 2 * tf.cumsum(ordered, exclusive=True) + ordered <= 2 * count
        taken = tf.logical_and(tf.logical_or(fits, tf.equal(tf.range(tf.size(order)), 0)), ordered > 0)
        units = tf.scatter_nd(order[:, None], tf.cast(taken, tf.int32), tf.shape(order)) > 0
        return tf.logical_and(tf.gather(units, unit), candidates), unit if as_one else tf.range(tf.size(ids))

    return choose


def unit_spans(starts: tf.Tensor, *, stop: float, longest: int) -> Choice:
    """Choose spans of units with geometric lengths until they cover round(u * rate) of u units; the last span is shortened to end there.

    Spans do not touch each other. Every such arrangement is equally likely.

    Args:
      starts: where a unit starts, bool [N]; the first token starts one.
      stop: probability that a span ends after each of its units.
      longest: maximum number of units in a span; the geometric distribution is truncated there.
    """
    chances = stop * (1 - stop) ** np.arange(longest)
    bounds = np.cumsum(chances / chances.sum())[:-1].astype(np.float32)

    def choose(
        ids: tf.Tensor, candidates: tf.Tensor, draws: tf.Tensor, rate: float, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        unit = tf.cumsum(tf.cast(starts, tf.int32)) - 1
        units = unit[-1] + 1
        hidden = rounded_count(units, rate)
        _, first, second = tf.unstack(tf.random.split(tf.cast(seed, tf.int32), 3))
        lengths = 1 + tf.searchsorted(bounds, tf.random.stateless_uniform([hidden], first), side="right")
        before = tf.cumsum(lengths, exclusive=True)
        gaps = units - hidden + 1
        number = tf.minimum(tf.reduce_sum(tf.cast(before < hidden, tf.int32)), gaps)
        lengths = tf.minimum(lengths, hidden - before)[: number - 1]
        lengths = tf.concat([lengths, [hidden - tf.reduce_sum(lengths)]], 0)
        # Each span goes into a different gap before a kept unit or after the last one.
        places = tf.sort(tf.argsort(tf.random.stateless_uniform([gaps], second))[:number])
        at = tf.repeat(places, lengths) + tf.range(hidden)
        span = tf.scatter_nd(at[:, None], 1 + tf.repeat(tf.range(number), lengths), [units])
        span = tf.gather(span, unit)
        return tf.logical_and(span > 0, candidates), tf.maximum(span - 1, 0)

    return choose
