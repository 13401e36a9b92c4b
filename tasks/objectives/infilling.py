"""BART's objectives: text infilling, sentence permutation, and both (Lewis et al. 2020, https://arxiv.org/abs/1910.13461, 2.2 and 5.1)."""

from __future__ import annotations

from collections.abc import Callable

import seqio
import tensorflow as tf

from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError
from t2t.tasks.objectives.denoising import append_eos, check_rate, chosen_tokens, on_int32, window
from t2t.tasks.objectives.features import Lengths, OutputFeatures
from t2t.tasks.objectives.special import with_mask
from t2t.tasks.objectives.streams import Example, map_with_seed, windows
from t2t.tasks.objectives.words import Words


def text_infilling(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.3,
    mean_span: float = 3.0,
) -> tf.data.Dataset:
    """Replace spans by one mask each, with lengths from a Poisson distribution; the targets are the text.

    A span of length 0 inserts a mask. Spans are drawn until they cover round(n * rate) tokens; the last one is shortened to end there.
    Spans do not touch each other, and there are at most as many spans as hidden tokens, so the inputs are not longer than the text.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, including EOS.
      output_features: `inputs` and `targets` over one vocabulary that has a mask.
      rate: fraction of the tokens to hide; BART uses 0.3.
      mean_span: mean of the Poisson distribution; BART uses 3.

    Raises:
      UserError: a fraction out of range, mean_span not above 0, a vocabulary without a mask, or no space for two tokens.
    """
    inputs, targets, length = window("text_infilling", sequence_length, output_features)
    infill = _infill("text_infilling", targets, rate, mean_span)

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        return {"inputs": append_eos(infill(ids, seed), inputs), "targets": append_eos(ids, targets)}

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def sentence_permutation(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures
) -> tf.data.Dataset:
    """Shuffle the sentences of the inputs uniformly; the targets are the text.

    A sentence ends at a full stop before white space or at an empty line (see `words`). A text of one sentence is unchanged. The field
    `sentences`, the original position of the sentence of each input token, is for inspection.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: a window is as long as the shorter of `inputs` and `targets`, including EOS.
      output_features: `inputs` and `targets` over one vocabulary.

    Raises:
      UserError: no space for two tokens, or a vocabulary whose word boundaries are unknown.
    """
    inputs, targets, length = window("sentence_permutation", sequence_length, output_features)
    words = Words(from_seqio(targets.vocabulary))

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        permuted, sentences = _permuted(ids, words, seed)
        return {"inputs": append_eos(permuted, inputs), "targets": append_eos(ids, targets), "sentences": sentences}

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def bart(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.3,
    mean_span: float = 3.0,
) -> tf.data.Dataset:
    """Shuffle the sentences, then replace spans by masks: BART's pretraining objective; the targets are the text.

    Args and raises: as `text_infilling` and `sentence_permutation`.
    """
    inputs, targets, length = window("bart", sequence_length, output_features)
    infill = _infill("bart", targets, rate, mean_span)
    words = Words(from_seqio(targets.vocabulary))

    def corrupt(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        seeds = tf.random.split(tf.cast(seed, tf.int32), 2)
        permuted, _ = _permuted(ids, words, seeds[0])
        return {"inputs": append_eos(infill(permuted, seeds[1]), inputs), "targets": append_eos(ids, targets)}

    return map_with_seed(windows(dataset, length), on_int32(corrupt))


def _permuted(ids: tf.Tensor, words: Words, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return ids [N] with their sentences shuffled, and the original position of each token's sentence."""
    sentence = tf.cumsum(tf.cast(words.sentences(ids), tf.int32))
    order = tf.argsort(tf.random.stateless_uniform([tf.reduce_max(sentence) + 1], seed))
    place = tf.argsort(tf.gather(tf.argsort(order), sentence), stable=True)
    return tf.gather(ids, place), tf.gather(sentence, place)


def _infill(
    objective: str, feature: seqio.Feature, rate: float, mean_span: float
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return a function that replaces spans of ids [N] by masks. Raise UserError for a parameter out of range."""
    check_rate(objective, rate)
    if not 0 < mean_span < float("inf"):
        raise UserError(f"mean_span={mean_span} of {objective}: must be above 0; BART uses 3.")
    _, mask_id = with_mask(objective, feature)

    def infill(ids: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        noise = tf.reduce_sum(tf.cast(chosen_tokens(tf.zeros_like(ids), rate), tf.int32))
        kept = tf.size(ids) - noise
        seeds = tf.random.split(tf.cast(seed, tf.int32), 2)
        drawn = tf.random.stateless_poisson([noise], seeds[0], mean_span, tf.int32)
        before = tf.cumsum(drawn, exclusive=True)
        spans = tf.minimum(tf.reduce_sum(tf.cast(before < noise, tf.int32)), kept)
        lengths = tf.minimum(drawn, noise - before)[: spans - 1]
        lengths = tf.concat([lengths, [noise - tf.reduce_sum(lengths)]], 0)[:spans]
        # Each span goes into a different gap before a kept token or after the last one: one gap more than kept tokens.
        gaps = kept + 1
        places = tf.sort(tf.argsort(tf.random.stateless_uniform([gaps], seeds[1]))[:spans])[:, None]
        marked = tf.scatter_nd(places, tf.ones([spans], tf.int32), [gaps]) > 0
        # Position in the text of the token after a gap.
        positions = tf.range(gaps) + tf.cumsum(tf.scatter_nd(places, lengths, [gaps]))
        pairs = tf.stack([tf.fill([gaps], mask_id), tf.gather(tf.pad(ids, [[0, 1]]), positions)], 1)
        shown = tf.stack([marked, tf.range(gaps) < kept], 1)
        return tf.boolean_mask(pairs, shown)

    return infill
