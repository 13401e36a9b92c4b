"""Texts labelled, words tagged, spans found: what encoders with heads of their own are trained on (Devlin et al. 2019, section 4).

Of `second` and of words it is the texts that are needed, which `seqio.preprocessors.tokenize` leaves as they are. Texts stand in BERT's frame,
[CLS] first [SEP] second [SEP], or, with a vocabulary that has no such tokens, each with EOS behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import seqio
import tensorflow as tf

from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, limit, require
from t2t.tasks.objectives.streams import Example

_ENDS_IN_WORD = "(?s).*[^ \\t\\n\\v\\f\\r]"


def classify(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, labels: Sequence[str]
) -> tf.data.Dataset:
    """Turn a text, or two, and the text of its label into an encoder's example: the label is to be predicted at the first token.

    A label that is none of `labels` ("<unk>", a hidden one) has weight 0. Where two texts do not fit, the longer one loses its end; `inputs_trimmed`
    counts the tokens lost.

    Args:
      dataset: examples with `inputs`: ids of shape [N], without EOS; `targets`: the label's text; and, for pairs, the text `second`.
      sequence_length: of `inputs`.
      output_features: `inputs`, `targets`, `weights` and, where wanted, `types`; see `label_features`.
      labels: in the order of their ids.

    Raises:
      UserError: too short a length.
    """
    require("classify", output_features, "inputs", "targets", "weights")
    frame = _Frame("classify", sequence_length, output_features)

    def one(example: Example) -> Example:
        made = frame(example["inputs"], frame.ids(example["second"]) if "second" in example else None).features
        size = tf.size(made["inputs"])
        found = tf.equal(tf.constant(list(labels)), example["targets"])
        known = tf.cast(tf.reduce_any(found), tf.int32)
        return {
            **example,
            **made,
            "targets": tf.pad([tf.argmax(tf.cast(found, tf.int32), output_type=tf.int32)], [[0, size - 1]]),
            "weights": tf.pad([known], [[0, size - 1]]),
        }

    return dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE)


def tag_words(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures, *, labels: Sequence[str]
) -> tf.data.Dataset:
    """Turn a text and the labels of its words into an encoder's example: each label is to be predicted at the first token of its word.

    Words are what white space divides, and each is tokenised on its own. What does not fit is left out at the end; `inputs_trimmed` counts the tokens.

    Args:
      dataset: examples with `inputs_pretokenized`: a text; `targets`: the labels' texts with spaces between.
      sequence_length: of `inputs`.
      output_features: `inputs`, `targets`, `weights`; see `label_features`.
      labels: in the order of their ids.

    Raises:
      UserError: too short a length; when read, a word without a label or a label that is none of `labels`.
    """
    require("tag_words", output_features, "inputs", "targets", "weights")
    frame = _Frame("tag_words", sequence_length, output_features)

    def one(example: Example) -> Example:
        words, tags = tf.strings.split(example["inputs_pretokenized"]), tf.strings.split(example["targets"])
        pieces = frame.words(words)
        found = tf.equal(tags[:, None], tf.constant(list(labels))[None])
        fit = tf.logical_and(tf.equal(tf.size(words), tf.size(tags)), tf.reduce_all(tf.reduce_any(found, axis=1)))
        classes = _checked(
            fit, tf.argmax(tf.cast(found, tf.int32), axis=1, output_type=tf.int32), words, tags, tuple(labels)
        )
        framed = frame(pieces.values)
        size = tf.size(framed.features["inputs"])
        starts = pieces.row_starts()
        # A word that the vocabulary has no token for has no place to be tagged at.
        there = tf.logical_and(starts < tf.cast(framed.first, tf.int64), pieces.row_lengths() > 0)
        at = tf.boolean_mask(starts, there)[:, None] + frame.before
        shape = tf.cast(size, tf.int64)[None]
        return {
            **example,
            **framed.features,
            "targets": tf.scatter_nd(at, tf.boolean_mask(classes, there), shape),
            "weights": tf.scatter_nd(at, tf.ones([tf.shape(at)[0]], tf.int32), shape),
        }

    return dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE)


def find_span(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Turn a question, a text and the answer's place in it into an encoder's example, whose first two targets are where the answer begins and ends.

    Targets are places of tokens in the example, question included. The text's words, what white space divides, are tokenised each on its own, and the
    span is of whole words: those that the answer touches. Where there is no answer, or it does not fit, both targets are 0, which stands for none.
    A question keeps at most half of the room; the text loses its end, and `inputs_trimmed` counts the tokens lost. `word_starts` is where each word of the text
    begins in the example, and where the last one ends, so that a span of tokens can be told as the text has it.

    Args:
      dataset: examples with `inputs`: ids of the question, without EOS; the text `second`; `targets`: the answer, "" for none; and where it is
        known `start`, the character of `second` at which the answer begins (int); else the answer is where it first stands in `second`.
      sequence_length: of `inputs`.
      output_features: `inputs`, `targets`, `weights` and, where wanted, `types`; see `span_features`.

    Raises:
      UserError: too short a length; when read, an answer that is not at its place in the text.
    """
    require("find_span", output_features, "inputs", "targets", "weights")
    frame = _Frame("find_span", sequence_length, output_features)

    def one(example: Example) -> Example:
        text, answer = example["second"], example["targets"]
        length = tf.strings.length(answer, "UTF8_CHAR")
        given = tf.cast(example["start"], tf.int32) if "start" in example else _found(text, answer)
        start = tf.where(length > 0, given, 0)
        there = tf.strings.substr(text, tf.minimum(start, tf.strings.length(text, "UTF8_CHAR")), length, "UTF8_CHAR")
        start = _placed(tf.equal(there, answer), start, answer, text)
        pieces = frame.words(tf.strings.split(text))
        framed = frame(example["inputs"], pieces.values)
        before = tf.strings.substr(text, 0, start, "UTF8_CHAR")
        joined = tf.strings.join([before, answer])
        first = tf.size(tf.strings.split(before)) - tf.cast(
            tf.strings.regex_full_match(before, _ENDS_IN_WORD), tf.int32
        )
        last = tf.size(tf.strings.split(joined)) - 1
        ends = tf.gather(tf.cast(pieces.row_splits, tf.int32), tf.maximum([first, last + 1], 0))
        kept = tf.logical_and(length > 0, tf.logical_and(ends[1] <= framed.second, ends[1] > ends[0]))
        span = tf.where(kept, tf.stack([ends[0], ends[1] - 1]) + framed.at, 0)
        rest = [[0, tf.size(framed.features["inputs"]) - 2]]
        return {
            **example,
            **framed.features,
            "targets": tf.pad(span, rest),
            "weights": tf.pad(tf.ones_like(span), rest),
            "word_starts": tf.minimum(tf.cast(pieces.row_splits, tf.int32), framed.second) + framed.at,
        }

    return dataset.map(one, num_parallel_calls=tf.data.AUTOTUNE)


class _Framed(NamedTuple):
    """An example's features; how many tokens of the first text are in them; where the second begins, and how many of it."""

    features: dict[str, tf.Tensor]
    first: tf.Tensor
    at: tf.Tensor
    second: tf.Tensor


class _Frame:
    """Puts ids into the frame that they stand in, cut to fit, with their token types where the task has them."""

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
        """Tokenise a text."""
        return tf.cast(self._vocabulary.encode_tf(text), tf.int32)

    def words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Tokenise words, each on its own, a space before all but the first: int32 [words, pieces]."""
        spaced = tf.strings.join([tf.where(tf.range(tf.size(words)) > 0, " ", ""), words])
        signature = tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0)
        return tf.map_fn(self.ids, spaced, fn_output_signature=signature)

    def __call__(self, first: tf.Tensor, second: tf.Tensor | None = None) -> _Framed:
        """Return `inputs`, `types` where wanted, and `inputs_trimmed`."""
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
        own = tf.size(tf.concat(parts, 0))
        pair = tf.zeros([0], tf.int32) if second is None else tf.concat([second, tail], 0)
        kept = tf.constant(0) if second is None else tf.size(second)
        made = {"inputs": tf.concat([*parts, pair], 0), "inputs_trimmed": size - tf.size(first) - kept}
        if self._types:
            made["types"] = tf.concat([tf.zeros([own], tf.int32), tf.ones_like(pair)], 0)
        return _Framed(made, tf.size(first), own, kept)


def _checked(fit: tf.Tensor, value: tf.Tensor, words: tf.Tensor, tags: tf.Tensor, labels: tuple[str, ...]) -> tf.Tensor:
    def refuse(words: Any, tags: Any) -> Any:
        named = [tag.decode("utf-8", errors="replace") for tag in tags]
        unknown = [tag for tag in named if tag not in labels]
        said = (
            f"{unknown[0]!r} is none of the labels {', '.join(labels)}"
            if unknown
            else f"{len(named)} labels for {len(words)} words"
        )
        text = " ".join(word.decode("utf-8", errors="replace") for word in words)
        raise UserError(f"tag_words: {said}, in {text!r}.")

    # Python is entered only to refuse. Stateless, so that an iterator's state can be saved.
    return tf.cond(
        fit,
        lambda: value,
        lambda: tf.ensure_shape(tf.numpy_function(refuse, [words, tags], tf.int32, stateful=False), [None]),
    )


def _found(text: tf.Tensor, answer: tf.Tensor) -> tf.Tensor:
    """Return the character at which the answer first stands in the text; the text's length where it does not."""
    return tf.strings.length(tf.strings.split(text, answer)[0], "UTF8_CHAR")


def _placed(there: tf.Tensor, start: tf.Tensor, answer: tf.Tensor, text: tf.Tensor) -> tf.Tensor:
    def refuse(start: Any, answer: Any, text: Any) -> Any:
        told = [value.decode("utf-8", errors="replace") for value in (answer, text)]
        raise UserError(f"find_span: the answer {told[0]!r} is not at character {int(start)} of {told[1]!r}.")

    return tf.cond(
        there,
        lambda: start,
        lambda: tf.ensure_shape(tf.numpy_function(refuse, [start, answer, text], tf.int32, stateful=False), []),
    )
