"""Choose which preprocessors of a task are cached, and check that a cache belongs to a task."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from t2t.config import identifying
from t2t.data.cached.manifest import Field, Manifest, checksum
from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError

# These give the same ids for the same text, whatever the sequence lengths and the seed of a run.
DETERMINISTIC = (seqio.preprocessors.rekey, seqio.preprocessors.tokenize)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def with_placeholder(task: seqio.Task) -> seqio.Task:
    """Return the task with a `CacheDatasetPlaceholder` after the steps that are cached.

    If the task has a placeholder, these are the steps before it. Otherwise they are the first steps that are known or marked
    (`function.deterministic = True`) to be deterministic and independent of sequence lengths. The other steps, such as objectives with
    random choices and truncation, run during training.

    Raises:
      UserError: a task without a placeholder cannot be derived (its class defines no replace()) or its source forbids caching.
    """
    if task.supports_caching:
        return task
    if type(task) is not seqio.Task and type(task).replace is seqio.Task.replace:
        raise UserError(
            f"task {task.name!r} is a {type(task).__name__}, which does not define replace(): add a "
            "CacheDatasetPlaceholder to cache it."
        )
    if not task.source.caching_permitted:
        raise UserError(f"task {task.name!r}: its source forbids caching (caching_permitted=False).")
    steps = list(task.preprocessors)
    place = next((i for i, step in enumerate(steps) if not _deterministic(step)), len(steps))
    return task.replace(preprocessors=[*steps[:place], seqio.CacheDatasetPlaceholder(), *steps[place:]])


def _deterministic(step: Any) -> bool:
    while isinstance(step, functools.partial):
        step = step.func
    return step in DETERMINISTIC or getattr(step, "deterministic", False) is True


def plan(task: seqio.Task, sharding: dict[str, int], spec: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a cache of the task, without shards.

    task: a task that `with_placeholder` returned.
    spec: `element_spec` of the examples after the cached steps.

    Raises:
      UserError: the examples have a field that cannot be cached.
    """
    return Manifest(
        task=task.name,
        source=_source(task),
        **_steps_and_vocabularies(task),
        fields=_fields(task, spec),
        sharding=sharding,
        splits={},
    )


def check(manifest: Manifest, task: seqio.Task, where: Path) -> None:
    """Raise UserError if a cache was made with different steps or vocabularies than the task has now.

    task: a task that `with_placeholder` returned.
    """
    for name, value in _steps_and_vocabularies(task).items():
        if getattr(manifest, name) != value:
            raise UserError(
                f"{where} (--data.cached) was made from task {task.name!r} with {name} {getattr(manifest, name)!r}, "
                f"but the task now has {value!r}. Nearest: another directory for `t2t cache`."
            )


def cached_steps(task: seqio.Task) -> list[Any]:
    """Return the steps before the placeholder of a task."""
    steps = list(task.preprocessors)
    return steps[: next(i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder))]


def _steps_and_vocabularies(task: seqio.Task) -> dict[str, Any]:
    return {
        "steps": tuple(_step_name(step) for step in cached_steps(task)),
        "vocabularies": {name: _vocabulary(feature.vocabulary) for name, feature in task.output_features.items()},
    }


def _step_name(step: Any) -> str:
    if isinstance(step, functools.partial):
        bound = [*map(repr, step.args), *(f"{name}={value!r}" for name, value in step.keywords.items())]
        return _ADDRESS.sub("", f"{_step_name(step.func)}({', '.join(bound)})")
    if dataclasses.is_dataclass(step):
        return _ADDRESS.sub("", repr(step))
    kind = step if hasattr(step, "__qualname__") else type(step)
    return f"{kind.__module__}.{kind.__qualname__}"


def _vocabulary(vocabulary: seqio.Vocabulary) -> str:
    try:
        ours = from_seqio(vocabulary)
    except UserError:  # ids that are not text, or the user's own kind of vocabulary
        return f"{type(vocabulary).__name__} of {vocabulary.vocab_size} ids"
    fields = {name: value for name, value in identifying(ours).items() if name != "path"}
    path = getattr(ours, "path", None)
    if path is not None:  # the path may differ between machines, the content must not
        fields["sha256"] = checksum(Path(path))
    return json.dumps(fields)


def _source(task: seqio.Task) -> str:
    """Return a description of the source, with the sizes and modification times of its local files."""
    source = task.source
    if type(source).__str__ is not object.__str__:
        description = str(source)
    elif isinstance(source, seqio.FunctionDataSource):
        description = _step_name(source._dataset_fn)
    else:
        description = type(source).__qualname__
    stamps: dict[str, None] = {}
    for split in task.splits:
        paths = source.paths(split) if hasattr(source, "paths") else source.list_shards(split)
        for path in paths:
            if os.path.isfile(path):
                stat = os.stat(path)
                stamps[f"{path}: {stat.st_size} bytes of {stat.st_mtime_ns}"] = None
    return "; ".join([_ADDRESS.sub("", description), *stamps])


def _fields(task: seqio.Task, spec: Mapping[str, Any]) -> dict[str, Field]:
    fields = {}
    for name, found in spec.items():
        plain = isinstance(found, tf.TensorSpec) or (isinstance(found, tf.RaggedTensorSpec) and not found.ragged_rank)
        if not plain or found.shape.rank is None:
            raise UserError(f"task {task.name!r}: field {name!r} is {found}; only tensors of known rank can be cached.")
        fields[name] = Field(dtype=found.dtype.name, rank=found.shape.rank)
    return fields
