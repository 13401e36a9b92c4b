"""Which of a task's steps are cached, and how to tell that a cache is a task's."""

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

from t2t.config import to_json
from t2t.data.cached.manifest import Field, Manifest, checksum
from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError

# The same ids for the same text, whatever the lengths of a run and its seed.
DETERMINISTIC = (seqio.preprocessors.rekey, seqio.preprocessors.tokenize)
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def divided(task: seqio.Task) -> seqio.Task:
    """Return the task with a `CacheDatasetPlaceholder` behind the steps that are cached.

    Those before the task's own placeholder, where it has one; else as many from the first one on as are known or marked
    (`function.deterministic = True`) to be deterministic and not to depend on lengths. What comes behind, objectives
    with their random choices and whatever trims, is run while training.

    Raises:
      UserError: a task without placeholder whose class does more than SeqIO's, or whose source forbids caching.
    """
    if task.supports_caching:
        return task
    if type(task) is not seqio.Task and type(task).replace is seqio.Task.replace:
        raise UserError(
            f"task {task.name!r} is a {type(task).__name__}, which has no replace() of its own: give it a "
            "CacheDatasetPlaceholder to have it cached."
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
    """Return the manifest, without shards, of a cache of the task.

    task: as `divided` returns it.
    spec: of the examples that the cached steps make, as `element_spec`.

    Raises:
      UserError: an example has a field that cannot be cached.
    """
    return Manifest(
        task=task.name,
        source=_source(task),
        steps=tuple(_named(step) for step in _before(task)),
        vocabularies={name: _vocabulary(feature.vocabulary) for name, feature in task.output_features.items()},
        fields=_fields(task, spec),
        sharding=sharding,
        splits={},
    )


def check(manifest: Manifest, task: seqio.Task, where: Path) -> None:
    """Raise UserError where a cache was made by other steps or with another vocabulary than the task has now.

    task: as `divided` returns it.
    """
    now = {
        "steps": tuple(_named(step) for step in _before(task)),
        "vocabularies": {name: _vocabulary(feature.vocabulary) for name, feature in task.output_features.items()},
    }
    for name, value in now.items():
        if getattr(manifest, name) != value:
            raise UserError(
                f"{where} (--data.cached) was made of task {task.name!r} with {name} {getattr(manifest, name)!r}, "
                f"the task now has {value!r}. Nearest: another directory for `t2t cache`."
            )


def _before(task: seqio.Task) -> list[Any]:
    steps = list(task.preprocessors)
    return steps[: next(i for i, step in enumerate(steps) if isinstance(step, seqio.CacheDatasetPlaceholder))]


def _named(step: Any) -> str:
    if isinstance(step, functools.partial):
        bound = [*map(repr, step.args), *(f"{name}={value!r}" for name, value in step.keywords.items())]
        return _ADDRESS.sub("", f"{_named(step.func)}({', '.join(bound)})")
    if dataclasses.is_dataclass(step):
        return _ADDRESS.sub("", repr(step))
    kind = step if hasattr(step, "__qualname__") else type(step)
    return f"{kind.__module__}.{kind.__qualname__}"


def _vocabulary(vocabulary: seqio.Vocabulary) -> str:
    try:
        ours = from_seqio(vocabulary)
    except UserError:  # ids without text, or a kind of the user's own
        return f"{type(vocabulary).__name__} of {vocabulary.vocab_size} ids"
    fields = {name: value for name, value in to_json(ours).items() if name != "path"}
    path = getattr(ours, "path", None)
    if path is not None:  # its name may differ from machine to machine, its content may not
        fields["sha256"] = checksum(Path(path))
    return json.dumps(fields)


def _source(task: seqio.Task) -> str:
    """Return a source in words, with the sizes and times of change of its files where they are local."""
    source = task.source
    if type(source).__str__ is not object.__str__:
        named = str(source)
    elif isinstance(source, seqio.FunctionDataSource):
        named = _named(source._dataset_fn)
    else:
        named = type(source).__qualname__
    stamps: dict[str, None] = {}
    for split in task.splits:
        paths = source.paths(split) if hasattr(source, "paths") else source.list_shards(split)
        for path in paths:
            if os.path.isfile(path):
                stat = os.stat(path)
                stamps[f"{path}: {stat.st_size} bytes of {stat.st_mtime_ns}"] = None
    return "; ".join([_ADDRESS.sub("", named), *stamps])


def _fields(task: seqio.Task, spec: Mapping[str, Any]) -> dict[str, Field]:
    fields = {}
    for name, found in spec.items():
        plain = isinstance(found, tf.TensorSpec) or (isinstance(found, tf.RaggedTensorSpec) and not found.ragged_rank)
        if not plain or found.shape.rank is None:
            raise UserError(f"task {task.name!r}: field {name!r} is {found}; only tensors of a known rank are cached.")
        fields[name] = Field(dtype=found.dtype.name, rank=found.shape.rank)
    return fields
