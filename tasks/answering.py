"""Register fine-tuning tasks for encoders with their own heads: classification, regression, tagging and span extraction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from t2t.data.answers import HIDDEN
from t2t.data.values import with_values
from t2t.errors import UserError
from t2t.tasks import metrics as known
from t2t.tasks.formatting import Example, Text, refuse_unless, value_of
from t2t.tasks.objectives import (
    classify,
    classify_several,
    find_span,
    label_features,
    regress,
    span_features,
    tag_words,
    value_features,
)
from t2t.tasks.register import add
from t2t.vocabularies import Vocabulary

Metrics = Sequence[Callable[..., Mapping[str, Any]]]


def add_classification(
    name: str,
    *,
    source: seqio.DataSource,
    inputs: Text,
    targets: Text | Sequence[str],
    labels: Sequence[str],
    several: bool = False,
    second: Text | None = None,
    types: bool = True,
    metrics: Metrics | None = None,
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of texts or text pairs with one label each (`objectives.classify`), for models with `head="label"`.

    With `several`, each text has any number of labels (`objectives.classify_several`), for models with `head="labels"`.

    Args:
      inputs, second: the text, and the second text of a pair: a field, a format string or a function, as in `add`.
      targets: the class: its number or its text. With `several`: a field with the numbers or texts of the labels, as a vector or as one text with commas; a field
        with a vector of true and false, one for each label; or a list of fields, one for each label, that are 1 if the text has it and 0 if not.
      labels: texts of the classes, in the order of the model's class ids.
      types: whether the tokens of a second text have type 1. Use False for models without token types. `t2t infer` follows the model.
      metrics: as in `add`. Default: `accuracy`, or with `several` `multilabel_f1`.

    Other arguments and errors are those of `add`.
    """
    if several:
        if isinstance(labels, str) or not labels or len(set(labels)) < len(labels) or any("\n" in x for x in labels):
            raise UserError(f"labels {labels!r} of task {name!r}: expected different texts of one line each.")
        if not isinstance(targets, str) and isinstance(targets, Sequence) and len(targets) != len(labels):
            raise UserError(
                f"targets of task {name!r}: {len(targets)} fields for {len(labels)} labels; expected one for each."
            )
        return add(
            name,
            source=source,
            inputs=inputs,
            second=second,
            targets=_lines(targets, flags=True),
            metrics=(partial(known.multilabel_f1, labels=tuple(labels)),) if metrics is None else metrics,
            vocabulary=vocabulary,
            objective=partial(classify_several, labels=tuple(labels)),
            features=partial(value_features, labels=tuple(labels), output="labels", types=types and second is not None),
            converter=with_values(len(labels)),
            keep=keep,
            replace=replace,
        )
    if not isinstance(targets, str) and isinstance(targets, Sequence):
        raise UserError(f"targets {targets!r} of task {name!r}: a list of fields is for several labels (several=True).")
    return add(
        name,
        source=source,
        inputs=inputs,
        second=second,
        targets=targets,
        labels=labels,
        metrics=(known.accuracy,) if metrics is None else metrics,
        vocabulary=vocabulary,
        objective=partial(classify, labels=tuple(labels)),
        features=partial(label_features, labels=tuple(labels), of="text", types=types and second is not None),
        keep=keep,
        replace=replace,
    )


def add_regression(
    name: str,
    *,
    source: seqio.DataSource,
    inputs: Text,
    targets: Text | Sequence[str],
    names: Sequence[str] = (),
    second: Text | None = None,
    types: bool = True,
    metrics: Metrics | None = None,
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of texts or text pairs with a number each (`objectives.regress`), for models with `head="numbers"`.

    Args:
      inputs, second: the text, and the second text of a pair: a field, a format string or a function, as in `add`.
      targets: the number. For several numbers: a field with a vector of numbers, or a list of fields.
      names: names of the numbers, if there are several; they are the model's labels.
      types: whether the tokens of a second text have type 1. Use False for models without token types. `t2t infer` follows the model.
      metrics: as in `add`. Default: `mse`, and for one number also `pearson` and `spearman`.

    Other arguments and errors are those of `add`.
    """
    count = len(names) or 1
    if not isinstance(targets, str) and isinstance(targets, Sequence) and len(targets) != count:
        raise UserError(
            f"targets of task {name!r}: {len(targets)} fields for {count} numbers (names); expected one for each."
        )
    several: Metrics = (known.mse,)
    return add(
        name,
        source=source,
        inputs=inputs,
        second=second,
        targets=_lines(targets),
        metrics=metrics if metrics is not None else several if count > 1 else (known.pearson, known.spearman, *several),
        vocabulary=vocabulary,
        objective=partial(regress, count=count),
        features=partial(value_features, labels=tuple(names), output="numbers", types=types and second is not None),
        converter=with_values(count),
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


def _lines(targets: Text | Sequence[str], *, flags: bool = False) -> Text:
    """Return a reader of a field or of several fields. Format strings and functions are returned unchanged."""
    if isinstance(targets, str):
        return targets if "{" in targets or "}" in targets else _Lines(names=(targets,), flags=flags)
    return targets if callable(targets) else _Flags(names=tuple(targets)) if flags else _Lines(names=tuple(targets))


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


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """Values of fields as text, each on a line of its own. A field is one value or a vector.

    flags: a vector of true and false stands for the numbers of the places with true.
    """

    names: tuple[str, ...]
    flags: bool = False

    @property
    def fields(self) -> list[str]:
        """Return the fields that are read."""
        return list(self.names)

    def __call__(self, example: Example) -> tf.Tensor:
        """Return the text."""
        values = [value_of(example, name) for name in self.names]
        return tf.ensure_shape(tf.numpy_function(self._text, values, tf.string, stateful=False), [])

    def _text(self, *values: Any) -> bytes:
        items = [item for value in values for item in self._items(np.asarray(value))]
        return "\n".join(items).encode("utf-8")

    def _items(self, value: np.ndarray) -> list[str]:
        if value.dtype == np.bool_:
            return [str(place) for place in np.flatnonzero(value)] if self.flags else [str(int(x)) for x in value.flat]
        # The shortest text of a float that reads back as the same float.
        return [x.decode("utf-8") if isinstance(x, bytes) else str(x) for x in value.flat]


@dataclass(frozen=True, kw_only=True)
class _Flags:
    """The numbers of the fields that are 1, each on a line of its own. A field of -1 means that the labels are unknown, as in hidden test splits."""

    names: tuple[str, ...]

    @property
    def fields(self) -> list[str]:
        """Return the fields that are read."""
        return list(self.names)

    def __call__(self, example: Example) -> tf.Tensor:
        """Return the text. On reading, raise UserError for a field that is not 0, 1 or -1."""
        values = [value_of(example, name) for name in self.names]
        return tf.ensure_shape(tf.numpy_function(self._text, values, tf.string, stateful=False), [])

    def _text(self, *values: Any) -> bytes:
        flags = []
        for name, value in zip(self.names, values, strict=True):
            text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
            flag = {"0": 0, "1": 1, "-1": -1, "0.0": 0, "1.0": 1, "-1.0": -1, "False": 0, "True": 1}.get(text)
            if flag is None:
                raise UserError(f"field {name!r}: {text!r} does not say whether the text has the label. Nearest: 0, 1.")
            flags.append(flag)
        if -1 in flags:
            return HIDDEN.encode("utf-8")
        return "\n".join(str(place) for place, flag in enumerate(flags) if flag).encode("utf-8")
