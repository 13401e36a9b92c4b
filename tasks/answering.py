"""Register fine-tuning tasks for encoders with their own heads: classification, tagging and span extraction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks import metrics as known
from t2t.tasks.formatting import Example, Text, refuse_unless, value_of
from t2t.tasks.objectives import classify, find_span, label_features, span_features, tag_words
from t2t.tasks.register import add
from t2t.vocabularies import Vocabulary

Metrics = Sequence[Callable[..., Mapping[str, Any]]]


def add_classification(
    name: str,
    *,
    source: seqio.DataSource,
    inputs: Text,
    targets: Text,
    labels: Sequence[str],
    second: Text | None = None,
    types: bool = True,
    metrics: Metrics = (known.accuracy,),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of texts or text pairs with one label each (`objectives.classify`), for models with `head="label"`.

    Args:
      inputs, second: the text, and the second text of a pair: a field, a format string or a function, as in `add`.
      targets: the class: its number or its text.
      labels: texts of the classes, in the order of the model's class ids.
      types: whether the tokens of a second text have type 1. Use False for models without token types. `t2t infer` follows the model.

    Other arguments and errors are those of `add`.
    """
    return add(
        name,
        source=source,
        inputs=inputs,
        second=second,
        targets=targets,
        labels=labels,
        metrics=metrics,
        vocabulary=vocabulary,
        objective=partial(classify, labels=tuple(labels)),
        features=partial(label_features, labels=tuple(labels), of="text", types=types and second is not None),
        keep=keep,
        replace=replace,
    )


def add_tagging(
    name: str,
    *,
    source: seqio.DataSource,
    words: str,
    tags: str,
    labels: Sequence[str],
    metrics: Metrics = (known.entity_f1, known.tag_accuracy),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of texts with a label for each word (`objectives.tag_words`), for models with `head="tags"`.

    Args:
      words: the field of a text's words: a vector of texts, or one text with white space between words.
      tags: the field of their labels: a vector of numbers or texts, or one text.
      labels: texts of the classes, in the order of the model's class ids, for example "O", "B-PER", "I-PER".

    Other arguments and errors are those of `add`.
    """
    return add(
        name,
        source=source,
        inputs=_Joined(field=words),
        targets=_Joined(field=tags, labels=tuple(labels)),
        metrics=metrics,
        vocabulary=vocabulary,
        objective=partial(tag_words, labels=tuple(labels)),
        features=partial(label_features, labels=tuple(labels), of="word"),
        keep=keep,
        replace=replace,
    )


def add_span_extraction(
    name: str,
    *,
    source: seqio.DataSource,
    question: Text,
    text: Text,
    answer: Text,
    start: Text | None = None,
    answers: str | None = None,
    types: bool = True,
    metrics: Metrics = (known.squad_v2,),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of questions whose answer is a span of a text (`objectives.find_span`), for models with `head="span"`.

    Args:
      question, text, answer: a field, a format string or a function, as in `add`. The answer "" means no answer. As in SQuAD, the task uses
        the first answer of a list, and an empty list means no answer.
      start: field or function with the character of the text at which the answer starts, or a list of these. Default: the first occurrence.
      answers: a field with all right answers, a vector of texts, for the metrics. Default: the answer alone.
      types: whether the text's tokens have type 1. Use False for models without token types. `t2t infer` follows the model.

    Other arguments and errors are those of `add`.
    """
    return add(
        name,
        source=source,
        inputs=question,
        second=text,
        start=None if start is None else _first(start, 0),
        targets=_first(answer, ""),
        metrics=metrics,
        vocabulary=vocabulary,
        objective=find_span,
        features=partial(span_features, types=types),
        postprocess=partial(_answers, field=answers),
        keep=[*keep, *([answers] if answers is not None else [])],
        replace=replace,
    )


def _first(text: Text, empty: str | int) -> Text:
    """Return a reader of the field's first item. Format strings and functions are returned unchanged."""
    return _First(field=text, empty=empty) if isinstance(text, str) and "{" not in text and "}" not in text else text


def _answers(text: str, *, field: str | None, example: Mapping[str, Any] | None = None, is_target: bool = False) -> Any:
    """Return a prediction unchanged, and for a target all right answers of the example, even those that do not fit its row."""
    if not is_target or example is None:
        return text
    right = example[field] if field is not None and len(example[field]) else [example["targets_pretokenized"]]
    return [answer.decode("utf-8") if isinstance(answer, bytes) else str(answer) for answer in right]


@dataclass(frozen=True, kw_only=True)
class _Joined:
    """Text of a field: its words joined by spaces, or its labels, where numbers are converted to the texts in `labels`."""

    field: str
    labels: tuple[str, ...] | None = None

    @property
    def fields(self) -> list[str]:
        """Return the one field that is read."""
        return [self.field]

    def __call__(self, example: Example) -> tf.Tensor:
        """Return the text. Raise UserError for a value that is not text or a list of texts. On reading, raise it for a number without a label."""
        value = value_of(example, self.field)
        if value.dtype != tf.string and not (self.labels is not None and value.dtype.is_integer):
            wanted = "texts" if self.labels is None else "integers or texts"
            raise UserError(f"field {self.field!r} has type {value.dtype.name}; expected {wanted}.")
        if self.labels is not None and value.dtype.is_integer:
            value = self._named(tf.cast(value, tf.int64), self.labels)
        if value.shape.rank == 0:
            return value
        return tf.strings.reduce_join(self._whole(value), separator=" ")

    def _named(self, numbers: tf.Tensor, labels: tuple[str, ...]) -> tf.Tensor:
        def refuse(found: Any) -> Any:
            bad = next(int(n) for n in np.ravel(found) if not 0 <= n < len(labels))
            raise UserError(
                f"field {self.field!r}: {bad} is not the number of a label; the labels {', '.join(labels)} have the numbers 0 to {len(labels) - 1}."
            )

        known = tf.reduce_all(tf.logical_and(numbers >= 0, numbers < len(labels)))
        return tf.gather(tf.constant(labels), refuse_unless(known, numbers, refuse, [numbers]))

    def _whole(self, words: tf.Tensor) -> tf.Tensor:
        """Return the words. Raise UserError unless joining keeps each of them one word."""

        def refuse(found: Any) -> Any:
            texts = [text.decode("utf-8", errors="replace") for text in found]
            bad = next(text for text in texts if len(text.split()) != 1)
            problem = "is empty" if not bad.strip() else "contains white space"
            raise UserError(f"field {self.field!r}: the word {bad!r} {problem}; each item must be exactly one word.")

        single_words = tf.reduce_all(tf.strings.regex_full_match(words, "[^ \\t\\n\\v\\f\\r]+"))
        return refuse_unless(single_words, words, refuse, [words])


@dataclass(frozen=True, kw_only=True)
class _First:
    """A field's value, or the first item of a list. An empty list, as of a question without an answer, gives `empty`."""

    field: str
    empty: str | int

    @property
    def fields(self) -> list[str]:
        """Return the one field that is read."""
        return [self.field]

    def __call__(self, example: Example) -> tf.Tensor:
        """Return the value. Raise UserError for a start that is not an integer."""
        value = value_of(example, self.field)
        if isinstance(self.empty, int) and not value.dtype.is_integer:
            raise UserError(f"start: field {self.field!r} must be an integer, not {value.dtype.name}.")
        return value if value.shape.rank == 0 else tf.concat([value, tf.constant([self.empty], value.dtype)], 0)[0]
