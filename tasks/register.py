"""Tasks and where they are found: SeqIO's registries, with errors a person can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import seqio
import tensorflow as tf

from t2t.data.tfds import prepare_for_splits, prepared
from t2t.data.vocabularies import derived, to_seqio
from t2t.errors import UserError, nearest
from t2t.tasks.formatting import Format, Text, fields_of
from t2t.tasks.objectives import text_features
from t2t.tasks.sources import FileSource
from t2t.vocabularies import Bytes, Vocabulary

Preprocessor = Callable[..., tf.data.Dataset]
Features = Callable[[seqio.Vocabulary], Mapping[str, seqio.Feature]]
_NAME = re.compile(r"[A-Za-z0-9_.:#]+")


def add(
    name: str,
    *,
    source: seqio.DataSource,
    targets: Text,
    inputs: Text | None = None,
    second: Text | None = None,
    start: Text | None = None,
    prefix: str = "",
    labels: Sequence[str] | None = None,
    metrics: Sequence[Callable[..., Mapping[str, Any]]] = (),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    objective: Preprocessor | Sequence[Preprocessor] | None = None,
    features: Features | None = None,
    postprocess: Callable[..., Any] | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a text-to-text task with SeqIO and return it.

    Args:
      name: of letters, digits and `_ . : #`.
      source: any `seqio.DataSource`; `t2t.tasks.sources` has files and TFDS.
      targets: the text to produce: a field of the source, a format string ("{title}: {body}"), or a function from the
        example (dict of tensors) to a string tensor.
      inputs: the text to start from, likewise; None where there is none, as for language modelling.
      second: a second text, likewise, for objectives that take pairs. start: where in it the answer begins, see
        `t2t.tasks.objectives.find_span`: a field or function that gives an int.
      prefix: put before the inputs, "summarize: " for example.
      labels: texts of the classes where `targets` is a class (a whole number or one of these texts). Examples carry
        them as `choices`, so that the task is evaluated by rank classification too.
      metrics: metric functions with SeqIO's signatures, see `t2t.tasks.metrics`.
      vocabulary: of ours or SeqIO's; bytes with 100 extra ids if None. A run may replace it.
      objective: preprocessors on token ids in place of "append EOS", see `t2t.tasks.objectives`.
      features: from a vocabulary to the features that the objective fills; `inputs` (where there are any) and
        `targets` if None. An encoder's objective needs `t2t.tasks.objectives.encoder_features`.
      postprocess: SeqIO's postprocessing function of decoded outputs and targets.
      keep: fields of the source that metrics need beside `inputs_pretokenized` and `targets_pretokenized`.
      replace: whether a task of this name may be replaced.

    Raises:
      UserError: a name that is taken or has other characters, a prefix without inputs, a malformed format string,
        repeated labels. What concerns the source's content is raised when it is first read.
    """
    check_name(name, seqio.TaskRegistry, replace=replace)
    if prefix and inputs is None:
        raise UserError(f"prefix {prefix!r} of task {name!r}: there are no inputs to put it before.")
    if labels is not None and (len(labels) < 2 or len(set(labels)) != len(labels) or isinstance(labels, str)):
        raise UserError(f"labels {labels!r} of task {name!r}: give two or more different texts.")
    used = [
        fields_of(text, f"{origin} of task {name!r}")
        for origin, text in (("inputs", inputs), ("second", second), ("start", start), ("targets", targets))
    ]
    if isinstance(source, FileSource) and all(fields is not None for fields in used):
        source = source.with_fields([field for fields in used for field in fields or []] + list(keep))
    over = to_seqio(vocabulary or Bytes()) if isinstance(vocabulary, Vocabulary | None) else vocabulary
    if features is not None:
        output_features = features(over)
    else:
        output_features = text_features(over, inputs=inputs is not None or objective is not None)
    tail = [seqio.preprocessors.append_eos] if objective is None else _listed(objective)
    form = Format(
        task=name,
        prefix=prefix,
        inputs=inputs,
        targets=targets,
        labels=None if labels is None else tuple(labels),
        keep=tuple(keep),
        second=second,
        start=start,
    )
    task = seqio.Task(
        name,
        source=source,
        output_features=output_features,
        preprocessors=[form, seqio.preprocessors.tokenize, *tail],
        postprocess_fn=postprocess,
        metric_fns=list(metrics),
    )
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(name, task)
    return task


def _listed(objective: Preprocessor | Sequence[Preprocessor]) -> list[Preprocessor]:
    return [objective] if callable(objective) else list(objective)


def check_name(name: str, registry: type, *, replace: bool) -> None:
    """Raise UserError for a name with other characters than SeqIO takes, or one that is taken."""
    if not _NAME.fullmatch(name):
        raise UserError(f"name {name!r}: use letters, digits and _ . : # only.")
    for kind, taken in (("task", seqio.TaskRegistry), ("mixture", seqio.MixtureRegistry)):
        if name in taken.names() and not (replace and taken is registry):
            how = "choose another name, or replace=True" if taken is registry else "choose another name"
            raise UserError(f"name {name!r}: there is a {kind} of that name already; {how}.")


def names() -> list[str]:
    """Return the names of all tasks and mixtures, sorted; those made over another vocabulary are left out."""
    known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
    return sorted(name for name in known if not derived(name))


def find(name: str) -> seqio.Task | seqio.Mixture:
    """Return the task or mixture of that name. Raises UserError with the nearest names where there is none."""
    if name in seqio.MixtureRegistry.names():
        return seqio.MixtureRegistry.get(name)
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    raise UserError(f"unknown task or mixture {name!r}.{nearest(name, names())}")


@dataclass(frozen=True, kw_only=True)
class Description:
    """A task or mixture in words.

    source:   where examples come from; for a mixture its parts.
    prefix:   text before the inputs; None where the task is SeqIO's own or a mixture.
    labels:   texts of the classes, or None.
    features: names of the features.
    splits:   split -> examples in the source, None where the source does not know. Empty where sizes were not asked for
              and the splits are not known without reading.
    metrics:  names of the metric functions.
    rates:    for a mixture: part -> rate, its share of the whole.
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
      sizes: count the examples, which may read files through, or make the corpus, or ask TFDS; also a mixture's
        proportional rates depend on sizes, and are left out without.

    Raises:
      UserError: an unknown name, or whatever the source has to say.
    """
    found = find(name)
    if sizes:
        for task in [found] if isinstance(found, seqio.Task) else found.tasks:
            prepare_for_splits(task.source)
    if isinstance(found, seqio.Mixture):
        shares = None
        if sizes:
            total = sum(found.get_rate(task) for task in found.tasks)
            shares = {task.name: found.get_rate(task) / total for task in found.tasks}
        metric_names = tuple(dict.fromkeys(n for task in found.tasks for n in _metric_names(task)))
        return Description(
            name=name,
            kind="mixture",
            source=" + ".join(found.rate_per_task_name),
            prefix=None,
            labels=None,
            features=tuple(found.output_features),
            splits=_sizes(found) if sizes else {},
            metrics=metric_names,
            rates=shares,
        )
    form = format_of(found)
    return Description(
        name=name,
        kind="task",
        source=str(found.source),
        prefix=form.prefix if form else None,
        labels=form.labels if form else None,
        features=tuple(found.output_features),
        splits=_sizes(found) if sizes else {},
        metrics=_metric_names(found),
    )


def format_of(task: seqio.Task) -> Format | None:
    """Return what makes the task's texts; None for a task that was not made by `add`."""
    return next((step for step in task.preprocessors if isinstance(step, Format)), None)


def _metric_names(task: seqio.Task) -> tuple[str, ...]:
    return tuple(
        getattr(function, "__name__", None) or getattr(function, "func", function).__name__
        for function in task.metric_fns
    )


def examples_of(task: seqio.Task, split: str) -> int | None:
    """Return the examples of a task's split, None where its source does not know, as of a data set of TFDS that is not prepared."""
    return task.num_input_examples(split) if prepared(task.source) else None


def _sizes(found: seqio.Task | seqio.Mixture) -> dict[str, int | None]:
    tasks = [found] if isinstance(found, seqio.Task) else found.tasks
    sizes: dict[str, int | None] = {}
    for split in dict.fromkeys(str(split) for task in tasks for split in task.splits):
        counts = [examples_of(task, split) for task in tasks if split in task.splits]
        known = [count for count in counts if count is not None]
        sizes[split] = sum(known) if len(known) == len(counts) else None
    return sizes
