"""Train on many prompts for the same data: one task for each prompt, and a mixture of these tasks.

Sources: T0 (Sanh et al. 2022, https://arxiv.org/abs/2110.08207) and FLAN (Wei et al. 2022). `check_held_out` checks that the
tasks of a zero-shot evaluation are not among the training tasks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import seqio
import tensorflow as tf

from t2t.errors import UserError, nearest
from t2t.tasks import promptsource
from t2t.tasks.mixing import mix
from t2t.tasks.objectives import text_features
from t2t.tasks.objectives.features import seqio_vocabulary
from t2t.tasks.register import Features, Preprocessor, check_name, find
from t2t.tasks.sources import FileSource
from t2t.tasks.templates import Template, slug
from t2t.vocabularies import Vocabulary

CAP = 500_000
"""T0's limit on the examples of one dataset, over all its templates."""
SHUFFLED = 256
"""Size of a shard's shuffle buffer in examples, over all templates; `Data.shuffle_buffer` if that is smaller."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """Preprocessor that turns examples of a source into `inputs`, `targets` and, with answer choices, `choices` (strings [choices]).

    It drops an example if the template renders empty inputs or targets. Python renders the template, without state.
    """

    task: str
    template: Template
    keep: tuple[str, ...] = ()

    deterministic: ClassVar[bool] = True
    """Whether `t2t cache` may store the texts."""

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset of texts. Raise UserError if the source lacks a field or a field cannot be passed to Python."""
        spec = dataset.element_spec
        names = self.template.variables()
        for name in [*names, *self.keep]:
            where = f"template {self.template.name!r} of task {self.task!r}"
            if name not in spec:
                raise UserError(f"{where}: the source has no field {name!r}.{nearest(name, spec)}")
            if not all(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(spec[name])):
                raise UserError(f"{where}: field {name!r} is not a dense tensor; convert it in the source.")
        chosen = {name: spec[name] for name in names}

        def render(*leaves: Any) -> tuple[bool, bytes, bytes, np.ndarray]:
            fields = tf.nest.pack_sequence_as(chosen, [_plain(leaf) for leaf in leaves])
            try:
                found = self.template.render(fields)
            except UserError as error:
                raise UserError(f"task {self.task!r}: {error}") from None
            if found is None:
                return False, b"", b"", np.array([], object)
            choices = np.array([choice.encode() for choice in found.choices or ()], object)
            return True, found.inputs.encode(), found.targets.encode(), choices

        def example(fields: Mapping[str, Any]) -> dict[str, tf.Tensor]:
            leaves = tf.nest.flatten({name: fields[name] for name in names})
            # TensorFlow can save an iterator only over stateless functions.
            rendered, inputs, targets, choices = tf.numpy_function(
                render, leaves, [tf.bool, tf.string, tf.string, tf.string], stateful=False
            )
            texts = {"inputs": tf.ensure_shape(inputs, []), "targets": tf.ensure_shape(targets, [])}
            if self.template.answer_choices is not None:
                texts["choices"] = tf.ensure_shape(choices, [None])
            return {**{name: fields[name] for name in self.keep}, **texts, _RENDERED: tf.ensure_shape(rendered, [])}

        def drop_flag(fields: Mapping[str, Any]) -> dict[str, tf.Tensor]:
            return {name: value for name, value in fields.items() if name != _RENDERED}

        rendered = dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
        return rendered.filter(lambda fields: fields[_RENDERED]).map(drop_flag)


_RENDERED = "rendered"


def _plain(value: Any) -> Any:
    """Return a TensorFlow value as a Python value: text, number, bool, or lists of them."""
    if isinstance(value, np.ndarray) or hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def add_prompted(
    name: str,
    *,
    source: seqio.DataSource,
    templates: Sequence[Template] | str | os.PathLike[str],
    cap: int = CAP,
    metrics: Sequence[Callable[..., Mapping[str, Any]]] = (),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    postprocess: Callable[..., Any] | None = None,
    objective: Preprocessor | None = None,
    features: Features = text_features,
    suffix: str = "",
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Mixture:
    """Register a task for each template, `NAME_TEMPLATE`, and a mixture `NAME` of them; return the mixture.

    Args:
      name: letters, digits and `_ . : #`.
      source: any `seqio.DataSource`; the fields of its examples are the templates' variables.
      templates: prompts, or the path of a promptsource `templates.yaml`.
      cap: maximum number of examples that the data counts for, over all templates: each task has the rate
        min(examples, cap / templates). This is T0's rule for data with more than `cap` examples; smaller data counts once
        for each template.
      metrics: metric functions for generated answers. Without metrics, tasks whose template has answer choices are evaluated
        by rank classification only.
      vocabulary: a t2t or SeqIO vocabulary. Default: bytes with 100 extra ids. A run may replace it.
      postprocess: SeqIO's postprocessing function for decoded outputs and targets.
      objective: a preprocessor on token ids that replaces "append EOS"; `fill_mask` for encoders.
      features: function from a vocabulary to the features that the objective fills; `encoder_features` for encoders.
      suffix: text to append to all names; "_fill_mask" for encoders.
      keep: fields of the source that metrics need.
      replace: whether to replace existing tasks and mixtures of these names.

    Raises:
      UserError: the name is taken, no template, two templates of the same name, a cap below one example for each template,
        or a template or file that cannot be read. Errors in the source's content are raised when the source is first read.
    """
    mixture = f"{name}{suffix}"
    check_name(mixture, seqio.MixtureRegistry, replace=replace)
    loaded = promptsource.load(templates) if isinstance(templates, str | os.PathLike) else list(templates)
    if not loaded:
        raise UserError(f"mixture {name!r}: has no templates; give at least one.")
    if cap < len(loaded):
        raise UserError(
            f"cap={cap} of mixture {name!r}: must allow at least one example for each template. Nearest: {len(loaded)}."
        )
    named: dict[str, Template] = {}
    for template in loaded:
        task_name = f"{name}_{slug(template.name)}{suffix}"
        if task_name in named or not slug(template.name):
            other = f"as {named[task_name].name!r} does" if task_name in named else "without a letter or digit"
            raise UserError(f"template {template.name!r} would make task {task_name!r}, {other}; rename it.")
        check_name(task_name, seqio.TaskRegistry, replace=replace)
        named[task_name] = template
    if isinstance(source, FileSource):
        source = source.with_fields([field for template in loaded for field in template.variables()] + list(keep))
    resolved = seqio_vocabulary(vocabulary)
    for task_name, template in named.items():
        task = seqio.Task(
            task_name,
            source=source,
            output_features=features(resolved),
            preprocessors=[
                Prompt(task=task_name, template=template, keep=tuple(keep)),
                seqio.preprocessors.tokenize,
                objective or seqio.preprocessors.append_eos,
            ],
            postprocess_fn=postprocess,
            metric_fns=list(metrics),
            # Every template and shard fills a buffer and saves it with the run's position. The mixture also shuffles.
            shuffle_buffer_size=max(16, SHUFFLED // len(named)),
        )
        seqio.TaskRegistry.remove(task_name)
        seqio.TaskRegistry.add_provider(task_name, task)
    return mix(mixture, list(named), cap=cap // len(named), replace=replace)


def check_held_out(trained: str, held_out: str) -> None:
    """Raise UserError if the mixture `trained` contains a task of the mixture `held_out`, or its source.

    Two sources are the same if they are one object, or read the same files, TFDS dataset or view of the documentation. A source
    that draws from another source (`origin`) counts as that source.
    """
    tasks = [found.tasks if isinstance(found := find(name), seqio.Mixture) else [found] for name in (trained, held_out)]
    known = {_origin(task.source): task.name for task in tasks[0]}
    for task in tasks[1]:
        if any(task.name == other.name for other in tasks[0]):
            raise UserError(f"task {task.name!r} of {held_out!r} is not held out: {trained!r} contains it too.")
        if _origin(task.source) in known:
            raise UserError(
                f"task {task.name!r} of {held_out!r} is not held out: task {known[_origin(task.source)]!r} of {trained!r}"
                f" has the same source, {task.source}."
            )


def _origin(source: Any) -> Any:
    while hasattr(source, "origin"):
        source = source.origin
    if isinstance(source, seqio.TfdsDataSource):
        return source.tfds_dataset.name
    return str(source) if type(source).__str__ is not object.__str__ else id(source)
