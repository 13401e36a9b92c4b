"""Span corruption (T5, https://arxiv.org/abs/1910.10683, sections 3.1.4 and 3.3.4)."""

from __future__ import annotations

import numpy as np
import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives import lengths
from t2t.tasks.objectives.features import Lengths, OutputFeatures, limit, require
from t2t.tasks.objectives.streams import Example, map_blocks, map_with_seed, windows


def span_corruption(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    noise_density: float = 0.15,
    mean_span: float = 3.0,
    shorten: bool = False,
) -> tf.data.Dataset:
    """Turn texts into inputs with spans replaced by sentinels, and targets with what the sentinels stand for.

    The text `a b c d e f` with `b` and `d e` as noise gives inputs `a <0> c <1> f` and targets `<0> b <1> d e`, the
    sentinels counting down from the top of the vocabulary. The counts of noise tokens and spans of a text are exact;
    how they are divided is random, each division as likely as any other. A text begins with a token that is kept and
    ends with noise, as T5's do. A sentinel that stands in the text itself becomes the unknown token. One token of text
    is kept, with nothing to predict.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: windows are as long as lets the corrupted inputs fill sequence_length["inputs"]; without it, as
        long as the vocabulary has sentinels for.
      output_features: `inputs` and `targets` over one vocabulary.
      noise_density: share of the tokens that are noise.
      mean_span: mean length of a noise span in tokens.
      shorten: where the targets or the sentinels do not do for windows that fill the inputs, take the longest windows they do for
        instead of refusing.

    Raises:
      UserError: a parameter out of range, targets too short for what the inputs leave out, or too few sentinels.
    """
    require("span_corruption", output_features, "inputs", "targets")
    inputs, targets = output_features["inputs"], output_features["targets"]
    if inputs.vocabulary != targets.vocabulary:
        raise UserError("span_corruption: inputs and targets have different vocabularies; give both the same.")
    vocabulary = targets.vocabulary
    window = _shortened if shorten else _window
    longest = window(sequence_length, inputs, targets, noise_density, mean_span)
    table = tf.constant(
        np.array([lengths.noise_counts(n, noise_density, mean_span) for n in range(longest + 1)], np.int32)
    )

    lowest = vocabulary.vocab_size - vocabulary.extra_ids

    def draw(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        return {"ids": ids, "draws": tf.random.stateless_uniform([tf.size(ids)], seed), "size": tf.size(ids)}

    def corrupt(block: Example) -> dict[str, tf.RaggedTensor]:
        sizes = block["size"]
        tokens, spans = tf.unstack(tf.gather(table, sizes), axis=1)
        turns = noise_turns(sizes, tokens, spans, block["draws"])
        noise, starts, follows = tf.cumsum(turns, axis=1) > 0, turns > 0, turns[:, 1:] > 0
        noise, starts = noise[:, :-1], starts[:, :-1]
        sentinels = vocabulary.vocab_size - tf.cumsum(tf.cast(starts, tf.int32), axis=1)
        ids = tf.pad(tf.cast(block["ids"], tf.int32), [[0, 0], [0, 1]])
        ids = tf.where(ids < lowest, ids, vocabulary.unk_id)
        place, size = tf.range(tf.shape(ids)[1]), sizes[:, None]
        ends = tf.equal(place, size)
        ids = tf.where(ends, vocabulary.eos_id, ids)
        # A sentinel stands at the first token that it hides: of the noise in inputs; in targets of what is kept, the last of which does as well.
        kept = tf.logical_and(tf.logical_or(starts, tf.logical_not(noise)), place < size + inputs.add_eos)
        hidden = tf.logical_or(tf.logical_or(noise, follows), tf.logical_and(ends, targets.add_eos))
        return {
            "inputs": rows(tf.where(starts, sentinels, ids), kept, sizes - tokens + spans, inputs),
            "targets": rows(tf.where(follows, sentinels - 1, ids), hidden, tokens + spans, targets),
        }

    def rows(ids: tf.Tensor, mask: tf.Tensor, lengths: tf.Tensor, feature: seqio.Feature) -> tf.RaggedTensor:
        flat = tf.cast(tf.boolean_mask(ids, mask), feature.dtype)
        return tf.RaggedTensor.from_row_lengths(flat, lengths + feature.add_eos, validate=False)

    return map_blocks(map_with_seed(windows(dataset, longest), draw), corrupt)


def noise_turns(sizes: tf.Tensor, tokens: tf.Tensor, spans: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Return 1 where noise begins and -1 behind its end, [B, L + 2]: `tokens` noise tokens in `spans` runs, each after a run that is kept.

    Each way to divide a text's noise tokens into its spans is as likely as any other, and so for what is kept.

    sizes, tokens, spans: of each text, [B].
    draws: random numbers below 1, [B, L], L being at least the longest text's size. A text's first are for what is kept, those behind for noise.
    """
    places = tf.range(tf.shape(draws)[1])
    kept = sizes - tokens
    most = tf.maximum(tf.reduce_max(spans) - 1, 0)

    def lengths(first: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Divide the `items` from place `first` on into `spans` lengths of at least 1, then 0; one of any length for no span."""
        first, last = first[:, None], (first + items)[:, None]
        drawn = tf.where(tf.logical_and(places > first, places < last), -draws, -2.0)
        cuts = tf.math.top_k(drawn, most).indices
        cuts = tf.sort(tf.where(tf.range(most) < spans[:, None] - 1, cuts, last), axis=1)
        edges = tf.concat([first, cuts, last], 1)
        return edges[:, 1:] - edges[:, :-1]

    noise = lengths(kept, tokens)
    ends = tf.cumsum(lengths(tf.zeros_like(kept), kept) + noise, axis=1)
    width = tf.size(places) + 2
    at = tf.stack([ends - noise, ends]) + tf.range(tf.size(sizes))[:, None] * width
    signs = tf.stack([tf.ones_like(ends), -tf.ones_like(ends)])
    turns = tf.scatter_nd(tf.reshape(at, [-1, 1]), tf.reshape(signs, [-1]), [tf.size(sizes) * width])
    return tf.reshape(turns, [-1, width])


def _window(
    sequence_length: Lengths, inputs: seqio.Feature, targets: seqio.Feature, noise_density: float, mean_span: float
) -> int:
    """Return how many tokens of text an example takes at most."""
    sentinels = targets.vocabulary.extra_ids
    within = limit(sequence_length, "inputs")
    if within is None:
        longest = lengths.raw_length_of_spans(sentinels, noise_density, mean_span)
        within = lengths.corrupted_lengths(longest, noise_density, mean_span)[0] - (not inputs.add_eos)
    else:
        longest = lengths.raw_length(within + (not inputs.add_eos), noise_density, mean_span)
    spans = lengths.noise_counts(longest, noise_density, mean_span)[1]
    if longest < 2 or spans > sentinels:
        remedy = _remedy(
            "a larger mean_span", lengths.longest_inputs(noise_density, mean_span, spans=sentinels), inputs
        )
        raise UserError(
            f"span corruption of inputs_length={within} makes up to {max(spans, 1)} spans (noise_density={noise_density},"
            f" mean_span={mean_span}); the vocabulary has {sentinels} sentinels: use extra_ids={max(spans, 1)}, {remedy}."
        )
    needed = lengths.corrupted_lengths(longest, noise_density, mean_span)[1] - (not targets.add_eos)
    room = limit(sequence_length, "targets")
    if room is not None and room < needed:
        fitting = lengths.longest_inputs(noise_density, mean_span, targets_length=room + (not targets.add_eos))
        remedy = _remedy(f"targets_length={needed}", fitting, inputs)
        raise UserError(
            f"targets_length={room} is too short for span corruption of inputs_length={within}: use {remedy}."
        )
    return longest


def _shortened(
    sequence_length: Lengths, inputs: seqio.Feature, targets: seqio.Feature, noise_density: float, mean_span: float
) -> int:
    """Return how many tokens of text an example takes at most, for the inputs, the targets and the sentinels."""
    within, room = limit(sequence_length, "inputs"), limit(sequence_length, "targets")
    sentinels = targets.vocabulary.extra_ids
    longest = lengths.raw_length_of_spans(sentinels, noise_density, mean_span)
    if within is not None:
        longest = min(longest, lengths.raw_length(within + (not inputs.add_eos), noise_density, mean_span))
    if room is not None:
        room += not targets.add_eos
        longest = min(
            longest, lengths.longest(lambda n: lengths.corrupted_lengths(n, noise_density, mean_span)[1] <= room)
        )
    if longest < 2:
        raise UserError(
            f"inputs_length={within}, targets_length={limit(sequence_length, 'targets')} and {sentinels} sentinels are too few"
            " for span corruption: it needs room for two tokens of text and a sentinel."
        )
    return longest


def _remedy(first: str, inputs_length: int, inputs: seqio.Feature) -> str:
    return f"{first}, or inputs_length={inputs_length - (not inputs.add_eos)} or less" if inputs_length else first
