"""Find tasks and mixtures in SeqIO's registries, and check a data configuration before any long work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, get_args

import seqio

from t2t.data.config import Data
from t2t.data.conversations import Chat, chats, with_ends
from t2t.data.converters import Convert, FeatureConverter, unchanged
from t2t.data.kind_converters import CONVERTERS, converter
from t2t.data.tfds import prepare_for_splits
from t2t.data.vocabularies import from_seqio, with_vocabulary
from t2t.errors import UserError, nearest
from t2t.nn.model import Kind
from t2t.vocabularies import Vocabulary

Provider: TypeAlias = "seqio.Task | seqio.Mixture"


def names() -> list[str]:
    """Return the names of all tasks and mixtures."""
    return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def find(name: str) -> Provider:
    """Return the task or mixture with this name. Raises UserError with the nearest names if there is none."""
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    if name in seqio.MixtureRegistry.names():
        return seqio.MixtureRegistry.get(name)
    raise UserError(f"unknown task {name!r} (--data.task).{nearest(name, names())}")


def task_names(name: str) -> tuple[str, ...]:
    """Return the names of a mixture's tasks. For a task, return its name."""
    return tuple(task.name for task in tasks_of(find(name)))


def tasks_of(provider: Provider, split: str | None = None) -> list[seqio.Task]:
    """Return a mixture's tasks, or a list with the task itself. With `split`, return only tasks that have this split."""
    tasks = [provider] if isinstance(provider, seqio.Task) else list(provider.tasks)
    return [task for task in tasks if split is None or split in task.splits]


_converters: dict[str, Convert] = {}
"""Task -> how its examples fill rows, where it says so itself."""


def set_converter(task: str, convert: Convert | None, *, chat: Chat | None = None) -> None:
    """Let a task say how its examples fill rows.

    convert: from the `FeatureConverter` of the model's kind to the task's own; None for none.
    chat: what a chat task fixes for a run that trains on it.
    """
    _converters.pop(task, None)
    chats.pop(task, None)
    if chat is not None:
        chats[task] = chat
    if convert is not None:
        _converters[task] = convert


def task_converter(name: str) -> Convert:
    """Return how the examples of a task or mixture fill rows. Raises UserError if the tasks of a mixture disagree."""
    found = {task: _converters.get(task, unchanged) for task in task_names(name)}
    first = next(iter(found))
    for task, convert in found.items():
        if convert is not found[first]:
            raise UserError(
                f"mixture {name!r}: tasks {first!r} and {task!r} have different converters, and a batch has one."
                " Nearest: give all tasks of the mixture the same function."
            )
    return found[first]


def provider_of(data: Data) -> Provider:
    """Return the task or mixture of `data`, with its vocabulary replaced by `data.vocabulary` unless that is None."""
    provider = find(data.task)
    if data.vocabulary is None:
        return provider
    return with_vocabulary(data.task, data.vocabulary)


def task_vocabulary(data: Data) -> Vocabulary:
    """Return `data.vocabulary`, or the vocabulary of the task's inputs as a `Vocabulary` that does not need TensorFlow.

    In the vocabulary of a chat task, the end of a turn is one of the ends.

    Raises:
      UserError: the task is unknown, its inputs and targets have different vocabularies, or its vocabulary has no counterpart here.
    """
    return with_ends(task_names(data.task), _plain_vocabulary(data))


def _plain_vocabulary(data: Data) -> Vocabulary:
    features = find(data.task).output_features
    if data.vocabulary is not None:
        return data.vocabulary
    if "targets" not in features:
        raise UserError(f"task {data.task!r} has no feature 'targets'; it has {', '.join(sorted(features))}.")
    text = _text_feature(features)
    vocabulary = from_seqio(features[text].vocabulary)
    if text == "inputs" or "inputs" not in features:
        return vocabulary
    inputs = from_seqio(features["inputs"].vocabulary)
    if inputs.of_targets != vocabulary:
        raise UserError(
            f"task {data.task!r} has different vocabularies for inputs and targets; --data.vocabulary sets one for both."
        )
    return inputs


def converter_of(data: Data, kind: Kind, provider: Provider, convert: Convert = unchanged) -> FeatureConverter:
    """Return the converter that arranges the provider's examples in rows for this kind of model.

    convert: the objective's change of the task's converter, see `t2t.objectives.Objective.converter`.

    Raises:
      UserError: the task lacks features that the kind of model or the objective needs.
    """
    offered = set(provider.output_features)
    if "targets" not in offered:
        raise UserError(f"task {data.task!r} has no feature 'targets'; it has {', '.join(sorted(offered))}.")
    if why := CONVERTERS[kind].refused(offered):
        endings = CONVERTERS[kind].variants
        raise UserError(f"task {data.task!r} {why}{_variant(data.task, endings) if endings else ''}")
    vocabulary = _vocabulary(data, provider)
    of_kind = converter(
        kind,
        inputs_length=data.inputs_length,
        targets_length=data.targets_length,
        has_inputs="inputs" in offered,
        has_types="types" in offered,
        loss_on_inputs=data.loss_on_inputs,
        bos_id=0 if vocabulary is None else vocabulary.bos_id,
        zero_pads=vocabulary is None or vocabulary.pad_id == 0,
    )
    layout = convert(task_converter(data.task)(of_kind))
    for name in layout.features:
        if name not in offered:
            raise UserError(
                f"task {data.task!r} has no feature {name!r}, which the objective needs (experiment.objective); it has {', '.join(sorted(offered))}."
                f"{nearest(name, offered)}"
            )
    return layout


def check(data: Data, kind: str, *, process_index: int = 0, process_count: int = 1, training: bool = True) -> None:
    """Raise UserError for invalid numbers and names, without reading any data.

    Shards, shuffling and the batch size are checked only if `training` is True.
    """
    if kind not in get_args(Kind):
        raise UserError(f"unknown kind of model {kind!r}.{nearest(kind, get_args(Kind))}")
    if process_count < 1 or not 0 <= process_index < process_count:
        raise UserError(f"process_index={process_index} of process_count={process_count}: must be 0 to count - 1.")
    provider = find(data.task)
    for task in tasks_of(provider):
        if data.cached is None:
            prepare_for_splits(task.source)
    if not tasks_of(provider, data.split):
        raise UserError(
            f"task {data.task!r} has no split {data.split!r} (--data.split); it has {', '.join(map(str, provider.splits))}."
            f"{nearest(data.split, map(str, provider.splits))}"
        )
    for task in tasks_of(provider, data.split):
        if task.requires_caching and data.cached is None:
            raise UserError(
                f"task {task.name!r} must be cached before it is read: run `t2t cache {task.name} --out DIR`, then use --data.cached DIR."
            )
    if training:
        _check_training(data, provider, process_count)


def _check_training(data: Data, provider: Provider, process_count: int) -> None:
    for rows in () if data.batch_ramp is None else data.ramp.rows:
        if rows % data.shards:
            raise UserError(
                f"--data.batch-ramp={data.batch_ramp}: {rows} rows are not a multiple of --data.shards={data.shards}."
                f" Nearest: {_multiple(rows, data.shards)}."
            )
    if data.batch_size % data.shards:
        raise UserError(
            f"--data.batch_size={data.batch_size} is not a multiple of --data.shards={data.shards}."
            f" Nearest: {_multiple(data.batch_size, data.shards)}."
        )
    if data.shards % process_count:
        raise UserError(
            f"--data.shards={data.shards} is not a multiple of the number of processes, {process_count}."
            f" Nearest: {_multiple(data.shards, process_count)}."
        )
    for task in tasks_of(provider, data.split):
        if data.shuffle_buffer and task.shuffle_buffer_size is None and not task.source.performs_internal_shuffling:
            raise UserError(
                f"task {task.name!r} forbids shuffling (shuffle_buffer_size=None), but --data.shuffle_buffer is "
                f"{data.shuffle_buffer}. Nearest: 0."
            )


def _multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)


def _variant(name: str, endings: Sequence[str]) -> str:
    """Return a sentence that names the task's variant for encoders. By convention its name ends in `_fill_mask` or `_masked_lm`."""
    candidates = [other for other in names() if "weights" in find(other).output_features]
    for suffix in endings:
        stems = [name, *(name.removesuffix(end) for end in ("_span_corruption", "_causal_lm", "_prefix_lm"))]
        for stem in stems:
            if stem + suffix in candidates:
                return f" Its variant for encoders: {stem + suffix}."
    return " Use a variant of it whose name ends in _fill_mask (supervised) or _masked_lm (text)." + (
        nearest(name, candidates) if candidates else ""
    )


def _text_feature(features: Mapping[str, seqio.Feature]) -> str:
    """Return the feature whose ids are text tokens. The targets of an encoder may be classes or positions instead."""
    without_text = isinstance(features["targets"].vocabulary, seqio.PassThroughVocabulary)
    return "inputs" if without_text and {"inputs", "weights"} <= set(features) else "targets"


def _vocabulary(data: Data, provider: Provider) -> Vocabulary | None:
    if data.vocabulary is not None:
        return data.vocabulary
    try:
        return from_seqio(provider.output_features[_text_feature(provider.output_features)].vocabulary)
    except UserError:  # no counterpart: assume that 0 is padding and the decoder start token, as in SeqIO's converters
        return None
