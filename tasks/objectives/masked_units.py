"""Masked language modelling of units longer than a token: whole words, spans of words, entities and phrases."""

from __future__ import annotations

import re

import numpy as np
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures
from t2t.tasks.objectives.masker import MaskedWindow
from t2t.tasks.objectives.streams import Example, map_with_seed, windows
from t2t.tasks.objectives.units import unit_spans, whole_units
from t2t.tasks.objectives.words import Words, token_offsets
from t2t.vocabularies import Vocabulary

IDENTIFIERS = (
    r"``?[^`\n]{1,60}``?"  # in backticks
    r"|\b[A-Za-z_]\w+(?:\.[A-Za-z_]\w*)+"  # dotted
    r"|\b_*[A-Za-z0-9]+(?:_+[A-Za-z0-9]+)+_*\b"  # with underscores
    r"|\b[A-Z][a-z0-9]+(?:[A-Z][a-z0-9]*)+\b"  # CamelCase
)
"""Regular expression for names of code in English documentation."""
_OUTSIDE, _INSIDE, _STARTS = range(3)


def whole_word_masked_lm(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
) -> tf.data.Dataset:
    """Choose whole words to predict. Like `masked_lm`, but all tokens of a word are chosen or none; each token is masked independently.

    Words are chosen in random order until they have round(n * rate) of n ordinary tokens, to within half a word. (BERT's whole
    word masking, https://github.com/google-research/bert, skips words that would exceed this number.) See `words` for the definition of a
    word.

    Args:
      dataset, sequence_length, output_features, rate, masked, replaced: as `masked_lm`.

    Raises:
      UserError: as `masked_lm`, or a vocabulary whose word boundaries are unknown.
    """
    masked_window = MaskedWindow(
        "whole_word_masked_lm", sequence_length, output_features, rate=rate, masked=masked, replaced=replaced
    )
    words = Words(masked_window.vocabulary)

    def mask(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        return masked_window(ids, seed, whole_units(words.starts(ids)))

    return map_with_seed(windows(dataset, masked_window.room), mask)


def span_masked_lm(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
    stop: float = 0.2,
    longest: int = 10,
    whole_words: bool = True,
) -> tf.data.Dataset:
    """Choose spans to predict; all tokens of a span become masks, become other tokens, or stay.

    SpanBERT's masking (Joshi et al. 2020, https://arxiv.org/abs/1907.10529, section 3.1): lengths are geometric with p = 0.2, at most 10
    words, 3.8 on average. Spans do not touch, and cover round(w * rate) of w words. SpanBERT's span boundary objective, a second head,
    is not included.

    Args:
      dataset, sequence_length, output_features, masked, replaced: as `masked_lm`.
      rate: fraction of the words to predict (of the tokens, without `whole_words`).
      stop: probability that a span ends after each of its words.
      longest: maximum number of words in a span.
      whole_words: whether spans consist of words, not tokens.

    Raises:
      UserError: as `masked_lm`, `stop` or `longest` out of range, or with `whole_words` a vocabulary whose word boundaries are unknown.
    """
    name = "span_masked_lm"
    if not 0 < stop < 1:
        raise UserError(f"stop={stop} of {name}: must be between 0 and 1; SpanBERT uses 0.2.")
    if longest < 1:
        raise UserError(f"longest={longest} of {name}: must be at least 1; SpanBERT uses 10.")
    masked_window = MaskedWindow(name, sequence_length, output_features, rate=rate, masked=masked, replaced=replaced)
    words = Words(masked_window.vocabulary) if whole_words else None

    def mask(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        starts = tf.fill(tf.shape(ids), True) if words is None else words.starts(ids)
        return masked_window(ids, seed, unit_spans(starts, stop=stop, longest=longest))

    return map_with_seed(windows(dataset, masked_window.room), mask)


def entity_masked_lm(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
    pattern: str = IDENTIFIERS,
    field: str | None = None,
) -> tf.data.Dataset:
    """Choose whole entities and words to predict; all tokens of a unit become masks, become other tokens, or stay.

    ERNIE's masking (Sun et al. 2019, https://arxiv.org/abs/1904.09223, section 3.2), with phrases and entities in one stage: an entity of
    any number of words is a unit like a single word. Units are chosen in random order until they have round(n * rate) of n ordinary
    tokens, to within half a unit.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS, and `targets_pretokenized`, their text.
      sequence_length, output_features, rate, masked, replaced: as `masked_lm`.
      pattern: regular expression of entities. Default: names of code. Ignored if `field` is given.
      field: source field with the entities of each example, strings [M]; the task must `keep` it.

    Raises:
      UserError: as `masked_lm`; a malformed pattern, a missing field, or a vocabulary whose word boundaries are unknown.
    """
    name = "entity_masked_lm"
    masked_window = MaskedWindow(name, sequence_length, output_features, rate=rate, masked=masked, replaced=replaced)
    vocabulary = masked_window.vocabulary
    words = Words(vocabulary)
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UserError(f"pattern={pattern!r} of {name}: {error}.") from None
    for needed in ("targets_pretokenized", *([field] if field else [])):
        if needed not in dataset.element_spec:
            raise UserError(f"{name}: the examples have no field {needed!r}, only {', '.join(dataset.element_spec)}.")

    def entities(text: bytes, count: np.ndarray, listed: np.ndarray) -> np.ndarray:
        names = sorted((entity.decode("utf-8") for entity in listed.tolist() if entity), key=len, reverse=True)
        found = re.compile("|".join(map(re.escape, names)) or r"(?!)") if field else expression
        return _entities(vocabulary, text.decode("utf-8"), int(count), found)

    @tf.autograph.experimental.do_not_convert
    def add_codes(example: Example) -> Example:
        # TensorFlow can save an iterator only over stateless functions.
        listed = example[field] if field else tf.zeros([0], tf.string)
        ids = tf.cast(example["targets"], tf.int32)
        text = example["targets_pretokenized"]
        codes = tf.numpy_function(entities, [text, tf.size(ids), listed], tf.int32, stateful=False)
        # Combine codes and ids in one tensor, so that `windows` splits both together.
        return {"targets": 3 * ids + tf.ensure_shape(codes, [None])}

    def mask(encoded: tf.Tensor, seed: tf.Tensor) -> Example:
        ids, codes = encoded // 3, encoded % 3
        entity_starts = tf.logical_and(tf.equal(codes, _STARTS), tf.logical_not(words.after_space(ids)))
        starts = tf.logical_and(tf.logical_or(words.starts(ids), entity_starts), tf.not_equal(codes, _INSIDE))
        starts = tf.logical_or(starts, tf.equal(tf.range(tf.size(ids)), 0))
        return masked_window(ids, seed, whole_units(starts, as_one=True))

    marked = dataset.map(add_codes, num_parallel_calls=tf.data.AUTOTUNE)
    return map_with_seed(windows(marked, masked_window.room), mask)


def _entities(vocabulary: Vocabulary, text: str, count: int, pattern: re.Pattern[str]) -> np.ndarray:
    """Return int32 [count], a code for each token: inside an entity and not its first token, first token of an entity or after one, or neither."""
    codes = np.full(count, _OUTSIDE, np.int32)
    text, offsets = token_offsets(vocabulary, text)
    if len(offsets) != count:
        raise UserError(
            f"entity_masked_lm: a text of {len(offsets)} tokens has {count} ids; the objective must directly follow tokenization."
        )
    starts, ends = np.array(offsets, np.int64).reshape(-1, 2).T
    for match in pattern.finditer(text):
        (of_entity,) = np.nonzero((starts < match.end()) & (ends > match.start()))
        if len(of_entity):
            first, last = int(of_entity[0]), int(of_entity[-1])
            codes[first] = _STARTS
            codes[first + 1 : last + 1] = _INSIDE
            codes[last + 1 : last + 2] = _STARTS
    return codes
