"""Format the fields of a source's example as the texts `inputs` and `targets`."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from t2t.data.answers import HIDDEN
from t2t.errors import UserError, nearest

Example = Mapping[str, tf.Tensor]
Text = str | Callable[[Example], tf.Tensor]
"""A field name, a format string with fields in braces, or a function that maps an example to a string tensor."""


def parse(template: str, origin: str) -> list[tuple[str, str | None]]:
    """Return the template's pieces: each is literal text and the field after it (None at the end).

    Text without braces is the name of a field.

    Raises:
      UserError: unbalanced braces, or anything but field names in braces.
    """
    if "{" not in template and "}" not in template:
        return [("", template)]
    try:
        found = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{origin} {template!r}: {error}; write {{{{ and }}}} for literal braces.") from None
    pieces: list[tuple[str, str | None]] = []
    for literal, field, format_spec, conversion in found:
        if field is not None and (not field or format_spec or conversion):
            raise UserError(f"{origin} {template!r}: braces may contain only field names, as in {{question}}.")
        pieces.append((literal, field))
    return pieces


def fields_of(text: Text | None, origin: str) -> list[str] | None:
    """Return the fields that a text uses, or None if it is a function without an attribute `fields`."""
    if text is None:
        return []
    if callable(text):
        return getattr(text, "fields", None)
    return [field for _, field in parse(text, origin) if field is not None]


@dataclass(frozen=True, kw_only=True)
class Format:
    """Preprocessor that turns examples of a source into `inputs` and `targets`, scalar strings.

    inputs:  None if the task has no inputs.
    labels:  texts of the classes. The field `targets` is then a class: its number, or one of these texts. Each example
             gets them as `choices` (strings [classes]), where rank classification finds them. Class -1, which TFDS uses
             for a hidden label, becomes "<unk>" as in T5.
    keep:    other fields to keep in the example, for metrics.
    second:  a second text, which becomes the field `second`.
    start:   the character of `second` at which the answer starts: a field or function that returns an int.
    """

    task: str
    prefix: str
    inputs: Text | None
    targets: Text
    labels: tuple[str, ...] | None = None
    keep: tuple[str, ...] = ()
    second: Text | None = None
    start: Text | None = None

    deterministic: ClassVar[bool] = True
    """Whether `t2t cache` may store the texts."""

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset of texts. Raise UserError if the source lacks a field or a field is not text."""
        spec = dataset.element_spec
        self._check(spec)
        texts = dataset.map(self._example, num_parallel_calls=tf.data.AUTOTUNE)
        for key in (key for key in ("inputs", "second", "targets") if getattr(self, key) is not None):
            found = texts.element_spec[key]
            if found.dtype != tf.string or found.shape.rank != 0:
                raise UserError(
                    f"{key} of task {self.task!r}: the function returns {found.dtype.name} of shape {found.shape},"
                    " expected a scalar string."
                )
        return texts

    def _check(self, spec: Mapping[str, Any]) -> None:
        """Check the element spec before TensorFlow builds a graph, because it wraps errors raised inside one."""
        known = set(_names(spec))
        texts = {"inputs": self.inputs, "second": self.second, "start": self.start, "targets": self.targets}
        for origin, text in texts.items():
            for field in fields_of(text, origin) or []:
                where = f"{origin} of task {self.task!r}"
                if field not in known:
                    raise UserError(f"{where}: the source has no field {field!r}.{nearest(field, known)}")
                found = value_of(spec, field)
                if callable(text):
                    continue
                if not isinstance(found, tf.TensorSpec) or found.shape.rank != 0:
                    raise UserError(f"{where}: field {field!r} is not a single value; use a function of the example.")
                if origin == "start" and not found.dtype.is_integer:
                    raise UserError(f"{where}: field {field!r} must be an integer, not {found.dtype.name}.")
                if origin == "targets" and self.labels is not None and not _is_class(found.dtype):
                    raise UserError(
                        f"{where}: the task has labels, so field {field!r} must be an integer or text, not {found.dtype.name}."
                    )
        for field in self.keep:
            if field not in spec:
                raise UserError(f"keep of task {self.task!r}: the source has no field {field!r}.{nearest(field, spec)}")

    def _example(self, example: Example) -> dict[str, tf.Tensor]:
        result = {field: example[field] for field in self.keep}
        if self.inputs is not None:
            result["inputs"] = self._text(self.inputs, "inputs", example)
            if result["inputs"].dtype == tf.string and self.prefix:
                result["inputs"] = tf.strings.join([self.prefix, result["inputs"]])
        if self.second is not None:
            result["second"] = self._text(self.second, "second", example)
        if self.start is not None:
            result["start"] = (
                self._call(self.start, "start", example) if callable(self.start) else value_of(example, self.start)
            )
        result["targets"] = self._text(self.targets, "targets", example)
        if self.labels is not None:
            result["targets"] = self._label(self.labels, result["targets"])
            result["choices"] = tf.constant(self.labels)
        return result

    def _text(self, text: Text, origin: str, example: Example) -> tf.Tensor:
        if callable(text):
            return tf.convert_to_tensor(self._call(text, origin, example))
        pieces = parse(text, origin)
        if len(pieces) == 1 and not pieces[0][0] and pieces[0][1] is not None and origin == "targets" and self.labels:
            return value_of(example, pieces[0][1])
        parts: list[tf.Tensor] = []
        for literal, field in pieces:
            if literal:
                parts.append(tf.constant(literal))
            if field is not None:
                value = value_of(example, field)
                parts.append(_as_text(value))
        return parts[0] if len(parts) == 1 else tf.strings.join(parts)

    def _call(self, function: Callable[[Example], tf.Tensor], origin: str, example: Example) -> tf.Tensor:
        """Call a function of the example. Raise UserError if it asks for a field that the source does not have."""
        try:
            return function(example)
        except KeyError as error:
            missing = str(error.args[0]) if error.args else ""
            if missing in example:  # the function looked it up elsewhere
                raise
            raise UserError(
                f"{origin} of task {self.task!r}: its function asks for field {missing!r}, which the source does not have.{nearest(missing, example)}"
            ) from error

    def _label(self, labels: tuple[str, ...], value: tf.Tensor) -> tf.Tensor:
        def refuse(found: Any) -> None:
            found = found.decode("utf-8", errors="replace") if isinstance(found, bytes) else int(found)
            raise UserError(f"targets of task {self.task!r}: {found!r} is not one of the labels {', '.join(labels)}.")

        if value.dtype == tf.string:
            return refuse_unless(tf.reduce_any(tf.equal(value, tf.constant(labels))), value, refuse, [value])
        index = tf.cast(value, tf.int64)
        index = refuse_unless(tf.logical_and(index >= -1, index < len(labels)), index, refuse, [index])
        return tf.gather(tf.constant([*labels, HIDDEN]), tf.where(index < 0, tf.constant(len(labels), tf.int64), index))


def refuse_unless(
    valid: tf.Tensor, value: tf.Tensor, refuse: Callable[..., Any], arguments: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Return the value if `valid` is true; otherwise call `refuse(*arguments)`, which raises an error."""
    # Python runs only to raise the error. A stateless function keeps the iterator's state savable.
    return tf.cond(
        valid,
        lambda: value,
        lambda: tf.ensure_shape(tf.numpy_function(refuse, arguments, value.dtype, stateful=False), value.shape),
    )


def _as_text(value: tf.Tensor) -> tf.Tensor:
    """Return a value as text. A float becomes the shortest text that parses to the same float, as in Python."""
    if value.dtype == tf.string:
        return value
    if not value.dtype.is_floating:
        return tf.strings.as_string(value)
    # TensorFlow prints six digits, or more than needed. A stateless function keeps the iterator's state savable.
    text = tf.numpy_function(lambda number: str(number).encode(), [value], tf.string, stateful=False)
    return tf.ensure_shape(text, [])


def _is_class(dtype: tf.DType) -> bool:
    return dtype.is_integer or dtype.is_bool or dtype == tf.string


def _names(spec: Mapping[str, object], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, inner in spec.items():
        names.append(prefix + name)
        if isinstance(inner, Mapping):
            names += _names(inner, f"{prefix}{name}.")
    return names


def value_of(example: Mapping[str, Any], field: str) -> Any:
    """Return a field. A dotted name ("answers.text") addresses a field inside a nested TFDS feature."""
    if field in example:
        return example[field]
    value: Any = example
    for part in field.split("."):
        value = value[part]
    return value
