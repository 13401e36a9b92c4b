"""Register, find and describe tasks. Tasks live in SeqIO's registries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import seqio
import tensorflow as tf

from t2t.data.converters import Convert
from t2t.data.registry import set_converter
from t2t.data.tfds import prepare_for_splits, prepared
from t2t.data.vocabularies import derived
from t2t.errors import UserError, nearest
from t2t.tasks.formatting import Format, Text, fields_of
from t2t.tasks.objectives import text_features
from t2t.tasks.objectives.features import seqio_vocabulary
from t2t.tasks.sources import FileSource
from t2t.tasks.sources.lines import LineSource
from t2t.vocabularies import Vocabulary

Preprocessor = Callable[..., tf.data.Dataset]
Features = Callable[[seqio.Vocabulary], Mapping[str, seqio.Feature]]
_NAME = re.compile(r"[A-Za-z0-9_.:#]+")


def add(
    name: str,
    *,
    source: seqio.DataSource,
    targets: Text | int,
    inputs: Text | int | None = None,
    second: Text | int | None = None,
    start: Text | int | None = None,
    prefix: str = "",
    labels: Sequence[str] | None = None,
    metrics: Sequence[Callable[..., Mapping[str, Any]]] = (),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    objective: Preprocessor | Sequence[Preprocessor] | None = None,
    features: Features | None = None,
    converter: Convert | None = None,
    postprocess: Callable[..., Any] | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a text-to-text task with SeqIO and return it.

    Args:
      name: letters, digits and `_ . : #`.
      source: any `seqio.DataSource`; `t2t.tasks.sources` has files and TFDS.
      targets: the text to produce: a field of the source, a format string ("{title}: {body}"), or a function that maps the
        example (a dict of tensors) to a string tensor. A number is a column, from 0, of CSV or TSV files without a header.
      inputs: the input text, in the same forms; None for tasks without inputs, such as language modelling.
      second: a second text, in the same forms, for objectives that take pairs.
      start: the character of `second` at which the answer starts, see `t2t.tasks.objectives.find_span`: a field or function
        that returns an int.
      prefix: text to prepend to the inputs, for example "summarize: ".
      labels: texts of the classes if `targets` is a class (an integer or one of these texts). Examples get them as
        `choices`, so that rank classification can evaluate the task too.
      metrics: metric functions with SeqIO's signatures, see `t2t.tasks.metrics`.
      vocabulary: a t2t or SeqIO vocabulary. Default: bytes with 100 extra ids. A run may replace it.
      objective: preprocessors on token ids that replace "append EOS", see `t2t.tasks.objectives`.
      features: function from a vocabulary to the features that the objective fills. Default: `inputs` (if the task has
        them) and `targets`. An encoder's objective needs `t2t.tasks.objectives.encoder_features`.
      converter: how the examples fill rows: a function from the `t2t.data.converters.FeatureConverter` of the model's kind to
        another one. Default: that of the kind.
      postprocess: SeqIO's postprocessing function for decoded outputs and targets.
      keep: fields of the source that metrics need in addition to `inputs_pretokenized` and `targets_pretokenized`.
      replace: whether to replace an existing task of this name.

    Raises:
      UserError: the name is taken or has other characters, a prefix without inputs, a malformed format string, or repeated
        labels. Errors in the source's content are raised when the source is first read.
    """
    check_name(name, seqio.TaskRegistry, replace=replace)
    if prefix and inputs is None:
        raise UserError(f"prefix {prefix!r} of task {name!r}: the task has no inputs to prepend it to.")
    if labels is not None and (len(labels) < 2 or len(set(labels)) != len(labels) or isinstance(labels, str)):
        raise UserError(f"labels {labels!r} of task {name!r}: expected two or more different texts.")
    source, texts = _by_number(name, source, {"inputs": inputs, "second": second, "start": start, "targets": targets})
    fields_used = [fields_of(text, f"{origin} of task {name!r}") for origin, text in texts.items()]
    if isinstance(source, FileSource) and all(fields is not None for fields in fields_used):
        source = source.with_fields([field for fields in fields_used for field in fields or []] + list(keep))
    resolved = seqio_vocabulary(vocabulary)
    if features is not None:
        output_features = features(resolved)
    else:
        output_features = text_features(resolved, inputs=inputs is not None or objective is not None)
    steps = [seqio.preprocessors.append_eos] if objective is None else _as_list(objective)
    formatter = Format(
        task=name, prefix=prefix, labels=None if labels is None else tuple(labels), keep=tuple(keep), **texts
    )
    task = seqio.Task(
        name,
        source=source,
        output_features=output_features,
        preprocessors=[formatter, seqio.preprocessors.tokenize, *steps],
        postprocess_fn=postprocess,
        metric_fns=list(metrics),
    )
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(name, task)
    set_converter(name, converter)
    return task


def _by_number(
    name: str, source: seqio.DataSource, texts: Mapping[str, Text | int | None]
) -> tuple[seqio.DataSource, dict[str, Any]]:
    """Return the source, and the texts with names of columns in place of numbers."""
    numbers = {origin: text for origin, text in texts.items() if isinstance(text, int)}
    if not numbers:
        return source, dict(texts)
    where = f"columns {list(numbers.values())} of task {name!r}"
    if any(isinstance(number, bool) or number < 0 for number in numbers.values()):
        raise UserError(f"{where}: a column's number is a whole number from 0. Nearest: 0.")
    if not isinstance(source, LineSource):
        raise UserError(f"{where}: only columns of CSV and TSV files have numbers. Nearest: the name of a field.")
    source, names = source.with_columns(list(numbers.values()))
    return source, {**texts, **dict(zip(numbers, names, strict=True))}


def _as_list(objective: Preprocessor | Sequence[Preprocessor]) -> list[Preprocessor]:
    return [objective] if callable(objective) else list(objective)


def check_name(name: str, registry: type, *, replace: bool) -> None:
    """Raise UserError if a name has characters that SeqIO does not allow, or is taken."""
    if not _NAME.fullmatch(name):
        raise UserError(f"name {name!r}: use only letters, digits and _ . : #.")
    for kind, existing in (("task", seqio.TaskRegistry), ("mixture", seqio.MixtureRegistry)):
        if name in existing.names() and not (replace and existing is registry):
            remedy = "choose another name, or replace=True" if existing is registry else "choose another name"
            raise UserError(f"name {name!r}: a {kind} of that name already exists; {remedy}.")


def names() -> list[str]:
    """Return the sorted names of all tasks and mixtures, without copies that use another vocabulary."""
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    return sorted(name for name in known if not derived(name))


def find(name: str) -> seqio.Task | seqio.Mixture:
    """Return the task or mixture of that name. Raise UserError with the nearest names if it is unknown."""
    if name in seqio.MixtureRegistry.names():
        return seqio.MixtureRegistry.get(name)
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    raise UserError(f"unknown task or mixture {name!r}.{nearest(name, names())}")


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of a task or mixture.

    source:   where examples come from; for a mixture, its parts.
    prefix:   text before the inputs; None for mixtures and for tasks that were registered with SeqIO directly.
    labels:   texts of the classes, or None.
    features: names of the features.
    splits:   split -> number of examples in the source, or None if the source does not know it. Empty without `sizes` if the splits
              are unknown before reading.
    metrics:  names of the metric functions.
    rates:    for a mixture: part -> its fraction of the whole.
    """

    name: str
    kind: str
    source: str
    prefix: str | None
    labels: tuple[str, ...] | None
    features: tuple[str, ...]
    splits: Mapping[str, int | None]
    metrics: tuple[str, ...]
    rates: Mapping[str, float] | None = None


def describe(name: str, *, sizes: bool = True) -> Description:
    """Describe a task or mixture.

    Args:
      name: a task or mixture.
      sizes: whether to count the examples. This may read all files, create the documentation corpus, or ask TFDS. Without
        it, the rates of a mixture are left out, because proportional rates depend on sizes.

    Raises:
      UserError: an unknown name, or an error of the source.
    """
    found = find(name)
    tasks = found.tasks if isinstance(found, seqio.Mixture) else [found]
    formatter = None if isinstance(found, seqio.Mixture) else format_of(found)
    rates = None
    if sizes:
        for task in tasks:
            prepare_for_splits(task.source)
        if isinstance(found, seqio.Mixture):
            total = sum(found.get_rate(task) for task in tasks)
            rates = {task.name: found.get_rate(task) / total for task in tasks}
    return Description(
        name=name,
        kind="mixture" if isinstance(found, seqio.Mixture) else "task",
        source=" + ".join(found.rate_per_task_name) if isinstance(found, seqio.Mixture) else str(found.source),
        prefix=formatter.prefix if formatter else None,
        labels=formatter.labels if formatter else None,
        features=tuple(found.output_features),
        splits=_sizes(tasks) if sizes else {},
        metrics=tuple(dict.fromkeys(metric for task in tasks for metric in _metric_names(task))),
        rates=rates,
    )


def format_of(task: seqio.Task) -> Format | None:
    """Return the step that formats the task's texts, or None for a task that `add` did not create."""
    return next((step for step in task.preprocessors if isinstance(step, Format)), None)


def _metric_names(task: seqio.Task) -> tuple[str, ...]:
    return tuple(
        getattr(function, "__name__", None) or getattr(function, "func", function).__name__
        for function in task.metric_fns
    )


def examples_of(task: seqio.Task, split: str) -> int | None:
    """Return the number of examples in a split, or None if the source does not know it (for example an unprepared TFDS data set)."""
    return task.num_input_examples(split) if prepared(task.source) else None


def _sizes(tasks: Sequence[seqio.Task]) -> dict[str, int | None]:
    sizes: dict[str, int | None] = {}
    for split in dict.fromkeys(str(split) for task in tasks for split in task.splits):
        counts = [examples_of(task, split) for task in tasks if split in task.splits]
        known = [count for count in counts if count is not None]
        sizes[split] = sum(known) if len(known) == len(counts) else None
    return sizes
