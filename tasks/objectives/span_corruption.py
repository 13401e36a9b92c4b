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
    """Convert texts to inputs with spans replaced by sentinels, and targets with the tokens that each sentinel replaces.

    The text `a b c d e f` with noise `b` and `d e` gives inputs `a <0> c <1> f` and targets `<0> b <1> d e`. Sentinels count
    down from the top of the vocabulary. The numbers of noise tokens and spans in a text are exact. Their division is uniformly
    random. As in T5, a text starts with a kept token and ends with noise. A sentinel that occurs in the text itself becomes
    the unknown token. A text of one token is not corrupted and has nothing to predict.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: windows are so long that the corrupted inputs fill sequence_length["inputs"]. If it is unlimited, they
        are as long as the number of sentinels allows.
      output_features: `inputs` and `targets` over one vocabulary.
      noise_density: fraction of the tokens that are noise.
      mean_span: mean length of a noise span in tokens.
      shorten: if the targets or the sentinels are too short for windows that fill the inputs, use the longest windows that fit
        instead of raising an error.

    Raises:
      UserError: a parameter out of range, targets too short for the noise, or too few sentinels.
    """
    require("span_corruption", output_features, "inputs", "targets")
    inputs, targets = output_features["inputs"], output_features["targets"]
    if inputs.vocabulary != targets.vocabulary:
        raise UserError("span_corruption: inputs and targets have different vocabularies; give both the same.")
    vocabulary = targets.vocabulary
    window = _longest_window if shorten else _full_window
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
        # In inputs, a sentinel replaces the first noise token of a span. In targets, it replaces the last kept token before the noise.
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
    """Return 1 where noise starts and -1 after its end, [B, L + 2]: `tokens` noise tokens in `spans` runs, each after a kept run.

    Each division of a text's noise tokens into spans is equally likely, and so is each division of the kept tokens.

    Args:
      sizes, tokens, spans: size, noise tokens and noise spans of each text, [B].
      draws: random numbers below 1, [B, L], where L is at least the size of the longest text. The first numbers of a text are for kept
        tokens, the following ones for noise.
    """
    places = tf.range(tf.shape(draws)[1])
    kept = sizes - tokens
    most = tf.maximum(tf.reduce_max(spans) - 1, 0)

    def lengths(first: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Divide `items` items from position `first` into `spans` lengths of at least 1, padded with 0; without spans, one length of any size."""
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


def _full_window(
    sequence_length: Lengths, inputs: seqio.Feature, targets: seqio.Feature, noise_density: float, mean_span: float
) -> int:
    """Return the maximum number of text tokens in an example."""
    sentinels = targets.vocabulary.extra_ids
    inputs_length = limit(sequence_length, "inputs")
    if inputs_length is None:
        longest = lengths.raw_length_of_spans(sentinels, noise_density, mean_span)
        inputs_length = lengths.corrupted_lengths(longest, noise_density, mean_span)[0] - (not inputs.add_eos)
    else:
        longest = lengths.raw_length(inputs_length + (not inputs.add_eos), noise_density, mean_span)
    spans = lengths.noise_counts(longest, noise_density, mean_span)[1]
    if longest < 2 or spans > sentinels:
        remedy = _remedy(
            "a larger mean_span", lengths.longest_inputs(noise_density, mean_span, spans=sentinels), inputs
        )
        raise UserError(
            f"span corruption of inputs_length={inputs_length} makes up to {max(spans, 1)} spans (noise_density={noise_density},"
            f" mean_span={mean_span}); the vocabulary has {sentinels} sentinels: use extra_ids={max(spans, 1)}, {remedy}."
        )
    needed = lengths.corrupted_lengths(longest, noise_density, mean_span)[1] - (not targets.add_eos)
    targets_length = limit(sequence_length, "targets")
    if targets_length is not None and targets_length < needed:
        fitting = lengths.longest_inputs(
            noise_density, mean_span, targets_length=targets_length + (not targets.add_eos)
        )
        remedy = _remedy(f"targets_length={needed}", fitting, inputs)
        raise UserError(
            f"targets_length={targets_length} is too short for span corruption of inputs_length={inputs_length}: use {remedy}."
        )
    return longest


def _longest_window(
    sequence_length: Lengths, inputs: seqio.Feature, targets: seqio.Feature, noise_density: float, mean_span: float
) -> int:
    """Return the maximum number of text tokens in an example that fits the inputs, the targets and the sentinels."""
    inputs_length, max_targets = limit(sequence_length, "inputs"), limit(sequence_length, "targets")
    sentinels = targets.vocabulary.extra_ids
    longest = lengths.raw_length_of_spans(sentinels, noise_density, mean_span)
    if inputs_length is not None:
        longest = min(longest, lengths.raw_length(inputs_length + (not inputs.add_eos), noise_density, mean_span))
    if max_targets is not None:
        max_targets += not targets.add_eos
        longest = min(
            longest, lengths.longest(lambda n: lengths.corrupted_lengths(n, noise_density, mean_span)[1] <= max_targets)
        )
    if longest < 2:
        raise UserError(
            f"inputs_length={inputs_length}, targets_length={limit(sequence_length, 'targets')} and {sentinels} sentinels are too few"
            " for span corruption: it needs space for two tokens of text and a sentinel."
        )
    return longest


def _remedy(first: str, inputs_length: int, inputs: seqio.Feature) -> str:
    return f"{first}, or inputs_length={inputs_length - (not inputs.add_eos)} or less" if inputs_length else first
