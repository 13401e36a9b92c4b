"""Classify texts, predict numbers of texts, tag words and find spans: fine-tuning objectives for encoders with their own heads (Devlin et al. 2019, section 4).

`second` and the words must be texts, which `seqio.preprocessors.tokenize` leaves unchanged. Examples have BERT's format
[CLS] first [SEP] second [SEP]; if the vocabulary has no such tokens, each text ends in EOS instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from t2t.data.answers import HIDDEN
from t2t.data.values import VALUES_FEATURE
from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError, nearest
from t2t.tasks.formatting import refuse_unless
from t2t.tasks.objectives.features import Lengths, OutputFeatures, limit, require
from t2t.tasks.objectives.streams import Example

_ENDS_IN_WORD = "(?s).*[^ \\t\\n\\v\\f\\r]"


def classify(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, labels: Sequence[str]
) -> tf.data.Dataset:
    """Convert a text or a pair of texts and a label to an encoder's example: the model predicts the label at the first token.

    A label that is not in `labels` ("<unk>", a hidden label) has weight 0. If two texts do not fit, the longer one loses its end;
    `inputs_trimmed` counts the tokens removed.

    Args:
      dataset: examples with `inputs`: ids of shape [N], without EOS; `targets`: the label's text; and, for pairs, the text `second`.
      sequence_length: maximum length of `inputs`.
      output_features: `inputs`, `targets`, `weights` and optionally `types`; see `label_features`.
      labels: label texts, in the order of their ids.

    Raises:
      UserError: the length is too short.
    """
    require("classify", output_features, "inputs", "targets", "weights")
    frame = _Frame("classify", sequence_length, output_features)

    def convert(example: Example) -> Example:
        features = frame(example["inputs"], frame.ids(example["second"]) if "second" in example else None).features
        size = tf.size(features["inputs"])
        matches = tf.equal(tf.constant(list(labels)), example["targets"])
        known = tf.cast(tf.reduce_any(matches), tf.int32)
        return {
            **example,
            **features,
            "targets": tf.pad([tf.argmax(tf.cast(matches, tf.int32), output_type=tf.int32)], [[0, size - 1]]),
            "weights": tf.pad([known], [[0, size - 1]]),
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def classify_several(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, labels: Sequence[str]
) -> tf.data.Dataset:
    """Convert a text or a pair of texts and any number of labels to an encoder's example: `values` has 1 for each label of the text, else 0.

    Args:
      dataset: examples with `inputs`: ids of shape [N], without EOS; `targets`: the names or numbers of the labels, on lines of their own or separated by
        commas, "" for none; and, for pairs, the text `second`. With "<unk>" or -1, the labels are unknown, and the weight is 0.
      sequence_length: maximum length of `inputs`. Texts are cut as by `classify`.
      output_features: `inputs`, `targets`, `weights`, `values` and optionally `types`; see `value_features`.
      labels: label texts, in the order of their ids.

    Raises:
      UserError: the length is too short. On reading: an unknown label.
    """
    ids = {label: i for i, label in enumerate(labels)}

    def read(text: str) -> list[float] | None:
        parts = text.split("\n") if "\n" in text or text in ids else text.split(",")
        found = [0.0] * len(ids)
        for part in filter(None, map(str.strip, parts)):
            if part in ("-1", HIDDEN) and part not in ids:
                return None
            place = ids[part] if part in ids else int(part) if part.isdecimal() else -1
            if not 0 <= place < len(ids):
                known = f"one of the labels {', '.join(ids)} or a number from 0 to {len(ids) - 1}"
                raise UserError(f"classify_several: {part!r} is not {known}.{nearest(part, ids)}")
            found[place] = 1.0
        return found

    return _with_values("classify_several", dataset, sequence_length, output_features, read, len(ids))


def regress(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, count: int = 1
) -> tf.data.Dataset:
    """Convert a text or a pair of texts and `count` numbers to an encoder's example: `values` has the numbers.

    Args:
      dataset: as in `classify_several`; `targets`: the numbers, separated by white space, or "<unk>" if they are unknown.
      sequence_length: maximum length of `inputs`. Texts are cut as by `classify`.
      output_features: `inputs`, `targets`, `weights`, `values` and optionally `types`; see `value_features`.
      count: how many numbers each text has.

    Raises:
      UserError: the length is too short. On reading: a target that is not that many finite numbers.
    """

    def read(text: str) -> list[float] | None:
        if text.strip() == HIDDEN:
            return None
        try:
            found = [float(part) for part in text.split()]
        except ValueError:
            found = []
        if len(found) != count or not all(map(math.isfinite, found)):
            raise UserError(
                f"regress: the target {text!r} is not {'a finite number' if count == 1 else f'{count} finite numbers'}."
            )
        return found

    return _with_values("regress", dataset, sequence_length, output_features, read, count)


def tag_words(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, labels: Sequence[str]
) -> tf.data.Dataset:
    """Convert a text and the labels of its words to an encoder's example: the model predicts each label at the first token of its word.

    Words are separated by white space, and each word is tokenized on its own. Words that do not fit are dropped at the end;
    `inputs_trimmed` counts the tokens removed.

    Args:
      dataset: examples with `inputs_pretokenized`: a text; `targets`: the texts of the labels, separated by spaces.
      sequence_length: maximum length of `inputs`.
      output_features: `inputs`, `targets`, `weights`; see `label_features`.
      labels: label texts, in the order of their ids.

    Raises:
      UserError: the length is too short. On reading: a word without a label, or an unknown label.
    """
    require("tag_words", output_features, "inputs", "targets", "weights")
    frame = _Frame("tag_words", sequence_length, output_features)

    def convert(example: Example) -> Example:
        words, tags = tf.strings.split(example["inputs_pretokenized"]), tf.strings.split(example["targets"])
        tokens = frame.words(words)
        matches = tf.equal(tags[:, None], tf.constant(list(labels))[None])
        valid = tf.logical_and(tf.equal(tf.size(words), tf.size(tags)), tf.reduce_all(tf.reduce_any(matches, axis=1)))
        classes = _checked_classes(
            valid, tf.argmax(tf.cast(matches, tf.int32), axis=1, output_type=tf.int32), words, tags, tuple(labels)
        )
        framed = frame(tokens.values)
        size = tf.size(framed.features["inputs"])
        starts = tokens.row_starts()
        # A word without tokens has no position for its tag.
        kept = tf.logical_and(starts < tf.cast(framed.first_size, tf.int64), tokens.row_lengths() > 0)
        positions = tf.boolean_mask(starts, kept)[:, None] + frame.before
        shape = tf.cast(size, tf.int64)[None]
        return {
            **example,
            **framed.features,
            "targets": tf.scatter_nd(positions, tf.boolean_mask(classes, kept), shape),
            "weights": tf.scatter_nd(positions, tf.ones([tf.shape(positions)[0]], tf.int32), shape),
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def find_span(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Convert a question, a text and the answer's position in it to an encoder's example: the first two targets are the answer's start and end.

    Targets are token positions in the example, including the question. Words of the text are separated by white space and tokenized each
    on its own. The span covers whole words: those that overlap the answer. If there is no answer, or it does not fit, both targets are 0,
    which means "no answer". The question keeps at most half of the space and the text loses its end; `inputs_trimmed` counts the tokens
    removed. `word_starts` holds the position of each word of the text in the example, and the end of the last word, so that a span of
    tokens can be converted to text.

    Args:
      dataset: examples with `inputs`: ids of the question, without EOS; the text `second`; `targets`: the answer, "" for none; and
        optionally `start` (int): the character of `second` at which the answer starts. Default: the first occurrence in `second`.
      sequence_length: maximum length of `inputs`.
      output_features: `inputs`, `targets`, `weights` and optionally `types`; see `span_features`.

    Raises:
      UserError: the length is too short. On reading: the answer is not at its position in the text.
    """
    require("find_span", output_features, "inputs", "targets", "weights")
    frame = _Frame("find_span", sequence_length, output_features)

    def convert(example: Example) -> Example:
        text, answer = example["second"], example["targets"]
        length = tf.strings.length(answer, "UTF8_CHAR")
        first_character = tf.cast(example["start"], tf.int32) if "start" in example else _first_occurrence(text, answer)
        start = tf.where(length > 0, first_character, 0)
        at_start = tf.strings.substr(text, tf.minimum(start, tf.strings.length(text, "UTF8_CHAR")), length, "UTF8_CHAR")
        start = _checked_start(tf.equal(at_start, answer), start, answer, text)
        pieces = frame.words(tf.strings.split(text))
        framed = frame(example["inputs"], pieces.values)
        before = tf.strings.substr(text, 0, start, "UTF8_CHAR")
        joined = tf.strings.join([before, answer])
        first = tf.size(tf.strings.split(before)) - tf.cast(
            tf.strings.regex_full_match(before, _ENDS_IN_WORD), tf.int32
        )
        last = tf.size(tf.strings.split(joined)) - 1
        ends = tf.gather(tf.cast(pieces.row_splits, tf.int32), tf.maximum([first, last + 1], 0))
        kept = tf.logical_and(length > 0, tf.logical_and(ends[1] <= framed.second_size, ends[1] > ends[0]))
        span = tf.where(kept, tf.stack([ends[0], ends[1] - 1]) + framed.second_start, 0)
        rest = [[0, tf.size(framed.features["inputs"]) - 2]]
        return {
            **example,
            **framed.features,
            "targets": tf.pad(span, rest),
            "weights": tf.pad(tf.ones_like(span), rest),
            "word_starts": tf.minimum(tf.cast(pieces.row_splits, tf.int32), framed.second_size) + framed.second_start,
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _with_values(
    objective: str,
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    read: Callable[[str], list[float] | None],
    count: int,
) -> tf.data.Dataset:
    """Convert texts and targets to an encoder's examples with `values`. read: returns the `count` values of a target, or None if they are unknown."""
    require(objective, output_features, "inputs", "targets", "weights", VALUES_FEATURE)
    frame = _Frame(objective, sequence_length, output_features)

    def values_of(target: bytes) -> np.ndarray:
        """Return the values, and after them whether they are known."""
        found = read(target.decode("utf-8"))
        return np.array([0.0] * (count + 1) if found is None else [*found, 1.0], np.float32)

    def convert(example: Example) -> Example:
        features = frame(example["inputs"], frame.ids(example["second"]) if "second" in example else None).features
        size = tf.size(features["inputs"])
        # A stateless function keeps the iterator's state savable.
        found = tf.numpy_function(values_of, [example["targets"]], tf.float32, stateful=False)
        found = tf.ensure_shape(found, [count + 1])
        return {
            **example,
            **features,
            "targets": tf.zeros([size], tf.int32),
            "weights": tf.pad(tf.cast(found[count:], tf.int32), [[0, size - 1]]),
            VALUES_FEATURE: found[:count],
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


class _Framed(NamedTuple):
    """Features of an example, number of tokens of the first text, start of the second text, and number of its tokens."""

    features: dict[str, tf.Tensor]
    first_size: tf.Tensor
    second_start: tf.Tensor
    second_size: tf.Tensor


class _Frame:
    """Adds special tokens to ids, trims them to fit, and adds token types if the task has them."""

    def __init__(self, objective: str, sequence_length: Lengths, output_features: OutputFeatures) -> None:
        feature = output_features["inputs"]
        self._vocabulary: seqio.Vocabulary = feature.vocabulary
        ours = from_seqio(feature.vocabulary)
        framed = ours.cls_id is not None and ours.sep_id is not None
        self._head = [ours.cls_id] if framed else []
        self._tail = [ours.sep_id if framed else ours.eos_id]
        self._between = ours.between
        self.before = len(self._head)
        self._types = "types" in output_features
        length = limit(sequence_length, "inputs")
        self._room = None if length is None else length - self.before
        least = 3 + len(self._between)
        if self._room is not None and self._room < least:
            raise UserError(
                f"inputs_length={length} is too short for {objective}: it needs at least {least + self.before}."
            )

    def ids(self, text: tf.Tensor) -> tf.Tensor:
        """Tokenize a text."""
        return tf.cast(self._vocabulary.encode_tf(text), tf.int32)

    def words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Tokenize each word on its own, with a space before all but the first: int32 [words, pieces]."""
        spaced = tf.strings.join([tf.where(tf.range(tf.size(words)) > 0, " ", ""), words])
        signature = tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0)
        return tf.map_fn(self.ids, spaced, fn_output_signature=signature)

    def __call__(self, first: tf.Tensor, second: tf.Tensor | None = None) -> _Framed:
        """Return `inputs`, `inputs_trimmed` and optionally `types`."""
        first = tf.cast(first, tf.int32)
        size = tf.size(first) + (0 if second is None else tf.size(second))
        tail = tf.constant(self._tail, tf.int32)
        if self._room is not None:
            room = self._room - len(self._tail) - (0 if second is None else len(self._between))
            other = tf.constant(0) if second is None else tf.size(second)
            first = first[: tf.maximum((room + 1) // 2, room - other) if second is not None else room]
            second = None if second is None else second[: room - tf.size(first)]
        parts = [tf.constant(self._head, tf.int32), first]
        parts.append(tail if second is None else tf.constant(self._between, tf.int32))
        second_start = tf.size(tf.concat(parts, 0))
        pair = tf.zeros([0], tf.int32) if second is None else tf.concat([second, tail], 0)
        kept = tf.constant(0) if second is None else tf.size(second)
        features = {"inputs": tf.concat([*parts, pair], 0), "inputs_trimmed": size - tf.size(first) - kept}
        if self._types:
            features["types"] = tf.concat([tf.zeros([second_start], tf.int32), tf.ones_like(pair)], 0)
        return _Framed(features, tf.size(first), second_start, kept)


def _checked_classes(
    valid: tf.Tensor, value: tf.Tensor, words: tf.Tensor, tags: tf.Tensor, labels: tuple[str, ...]
) -> tf.Tensor:
    def refuse(words: Any, tags: Any) -> Any:
        named = [tag.decode("utf-8", errors="replace") for tag in tags]
        unknown = [tag for tag in named if tag not in labels]
        problem = (
            f"{unknown[0]!r} is not one of the labels {', '.join(labels)}"
            if unknown
            else f"{len(named)} labels for {len(words)} words"
        )
        text = " ".join(word.decode("utf-8", errors="replace") for word in words)
        raise UserError(f"tag_words: {problem}, in {text!r}.")

    return refuse_unless(valid, value, refuse, [words, tags])


def _first_occurrence(text: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """Return the character of the first occurrence of the answer in the text, or the text's length if there is none."""
    return tf.strings.length(tf.strings.split(text, answer)[0], "UTF8_CHAR")


def _checked_start(matches: tf.Tensor, start: tf.Tensor, answer: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
    def refuse(start: Any, answer: Any, text: Any) -> Any:
        answer, text = (value.decode("utf-8", errors="replace") for value in (answer, text))
        raise UserError(f"find_span: the answer {answer!r} is not at character {int(start)} of {text!r}.")

    return refuse_unless(matches, start, refuse, [start, answer, text])
