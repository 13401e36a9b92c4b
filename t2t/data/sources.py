"""Build the `tf.data` dataset of a task or mixture for one virtual shard.

Randomness:
- The order of the source depends on (seed, place in the mixture). It is the same for all shards, so that shards taken by example partition
  one order.
- Preprocessors, shuffle buffers and mixing depend on (seed, place, shard), so that shards make different choices.
- The source is repeated *before* the preprocessors, and the random streams of SeqIO's seeds continue across epochs. Each epoch is masked
  and shuffled differently but reproducibly, and a saved iterator includes the position in these streams.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import seqio
import tensorflow as tf

from t2t.data.cached.reading import CachedTask
from t2t.data.config import Data
from t2t.data.converters import FeatureConverter
from t2t.data.registry import Provider, tasks_of
from t2t.data.tfds import prepare
from t2t.errors import Failure, UserError
from t2t.types import Extra

_log = logging.getLogger(__name__)

# TensorFlow only reads data here. It must not allocate accelerator memory.
try:
    tf.config.set_visible_devices([], "GPU")
except RuntimeError:
    _log.warning("TensorFlow was initialised before t2t.data and may hold GPU memory")


def options() -> tf.data.Options:
    """Return the tf.data options of every pipeline in this package."""
    opts = tf.data.Options()
    opts.deterministic = True
    # Deleting an iterator waits for its autotuner, which may miss the signal and sleep for up to a minute.
    # Without autotuning, a parallel map runs as many calls as there are cores.
    opts.autotune.enabled = False
    # Python functions with stateful=True and unseeded random ops have state that cannot be saved: fail instead of resuming wrongly.
    opts.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.FAIL
    return opts


def examples(
    provider: Provider,
    data: Data,
    layout: FeatureConverter,
    *,
    shard: int = 0,
    shards: int = 1,
    repeat: bool,
    shuffle: bool,
) -> tf.data.Dataset:
    """Return the examples of one virtual shard: dicts of the layout's features, one-dimensional and not truncated.

    A mixture samples its tasks by their rates: forever with `repeat`, otherwise until each task has given every example once.

    Raises:
      UserError: a feature is missing or not a sequence of ids.
    """

    tasks = tasks_of(provider)

    @tf.autograph.experimental.do_not_convert
    def features(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Extra arrays are flattened here; `Batch.extra` restores their shapes. Tokens are only cast: tf.data removes or fuses maps depending on
        # their content, and the saved position of an older run fits only the maps that remained.
        flat = {x.name: tf.reshape(example[x.name], [-1]) for x in layout.extras}
        return {name: tf.cast({**example, **flat}[name], layout.dtype(name)) for name in layout.features}

    def task_examples(task: seqio.Task) -> tf.data.Dataset:
        place = tasks.index(task)
        ds = raw(task, data, layout, place=place, shard=shard, shards=shards, repeat=repeat, shuffle=shuffle)
        check_features(task, layout, ds.element_spec)
        ds = ds.map(features, num_parallel_calls=tf.data.AUTOTUNE)
        if shuffle and task.shuffle_buffer_size is not None and data.cached is None:
            ds = ds.shuffle(_buffer(task, data), seed=_seed(data.seed, "order", place, shard))
        return ds

    def rate(task: seqio.Task) -> float:
        # A rate that depends on sizes gets the sizes of the cache, because the source may be missing. Not for nested
        # mixtures: they look up their tasks by identity.
        flat = set(provider.rate_per_task_name) <= {task.name for task in tasks}
        return provider.get_rate(CachedTask(data.cached, task).task() if data.cached is not None and flat else task)

    if isinstance(provider, seqio.Task):
        return task_examples(provider)
    for task in tasks:
        if data.split not in task.splits:
            _log.warning("mixture %s: task %s has no split %s and is skipped", provider.name, task.name, data.split)
    seed = _seed(data.seed, "mixture", shard)
    if not repeat:
        with_split = tasks_of(provider, data.split)
        return tf.data.Dataset.sample_from_datasets(
            [task_examples(task) for task in with_split],
            [rate(task) for task in with_split],
            seed=seed,
            stop_on_empty_dataset=False,
        )
    # The mixture samples as registered. Only the examples of its tasks are made here.
    mixture: Any = copy.copy(provider)
    mixture.get_task_dataset = lambda task, *args, **kwargs: task_examples(task)
    mixture.get_rate = rate
    return mixture.get_dataset(sequence_length=layout.lengths, split=data.split, shuffle=shuffle, seed=seed)


def raw(
    task: seqio.Task,
    data: Data,
    layout: FeatureConverter,
    *,
    place: int = 0,
    shard: int = 0,
    shards: int = 1,
    repeat: bool,
    shuffle: bool,
) -> tf.data.Dataset:
    """Return the preprocessed examples of a task with all their fields, in the order of the source.

    place: the index of the task in its mixture.
    """

    def build() -> tf.data.Dataset:
        seed = _seed(data.seed, "preprocessors", place, shard)
        if data.cached is not None:
            cached = CachedTask(data.cached, task)
            order = _seed(data.seed, "source", place)
            ds = cached.dataset(data.split, seed=order, shard=shard, shards=shards, repeat=repeat, shuffle=shuffle)
            steps, seed = cached.task(), cached.seed(seed)
        else:
            ds, steps = source(task, data, place=place, shard=shard, shards=shards, shuffle=shuffle), task
            if repeat:
                ds = ds.repeat()
            ds = task.preprocess_precache(ds, seed=seed)
        return steps.preprocess_postcache(ds, sequence_length=layout.lengths, seed=seed).with_options(options())

    return _build(build, task.name)


_needs_autograph: set[str] = set()
"""Tasks whose preprocessors need AutoGraph."""


def _build(build: Callable[[], tf.data.Dataset], name: str) -> tf.data.Dataset:
    """Return `build()`, with AutoGraph only if it fails without. AutoGraph takes most of the building time, and the library's own tasks do not need it.

    AutoGraph only changes Python control flow on tensors, which raises an error without it. So the data is the same.
    """
    if name not in _needs_autograph:
        try:
            return tf.autograph.experimental.do_not_convert(build)()
        except (UserError, Failure):
            raise
        except Exception as error:  # using a tensor as a Python value raises many kinds of errors
            _log.debug("task %s is built with AutoGraph: %s", name, error)
    ds = build()
    _needs_autograph.add(name)
    return ds


def _buffer(task: seqio.Task, data: Data) -> int:
    """Return the shuffle buffer size: the run's, capped by the task's own if that is below SeqIO's default."""
    own = task.shuffle_buffer_size
    return min(own, data.shuffle_buffer) if own < seqio.dataset_providers.SHUFFLE_BUFFER_SIZE else data.shuffle_buffer


def source(
    task: seqio.Task, data: Data, *, place: int = 0, shard: int = 0, shards: int = 1, shuffle: bool
) -> tf.data.Dataset:
    """Return one shard of a task's source: some of its files if there are enough, otherwise every `shards`-th example. Prepare a TFDS dataset first."""
    prepare(task.source)
    seed = _seed(data.seed, "source", place)
    if shards > 1 and not by_example(task, data.split, shards):
        ds = _read(task, data.split, shuffle, seed, seqio.ShardInfo(shard, shards))
    else:
        ds = _read(task, data.split, shuffle, seed, None).shard(shards, shard)
    return ds.with_options(options())


def by_example(task: seqio.Task, split: str, shards: int) -> bool:
    """Return whether `source` gives each shard every `shards`-th example, instead of a part that can be read without the others."""
    return not task.source.supports_arbitrary_sharding and len(task.source.list_shards(split)) < shards


def _read(task: seqio.Task, split: str, shuffle: bool, seed: int, shard: seqio.ShardInfo | None) -> tf.data.Dataset:
    try:
        return task.source.get_dataset(split=split, shuffle=shuffle, seed=seed, shard_info=shard)
    except ValueError:
        # SeqIO rejects a seed if the dataset function has no such argument. Read in order: that is reproducible, too.
        if not isinstance(task.source, seqio.FunctionDataSource):
            raise
        return task.source.get_dataset(split=split, shuffle=False, shard_info=shard)


def check_features(task: seqio.Task, layout: FeatureConverter, spec: Mapping[str, Any]) -> None:
    """Raise UserError if a task's examples lack a feature of the converter, or have it with the wrong type or shape."""
    extras = {extra.name: extra for extra in layout.extras}
    for name in layout.features:
        if name not in spec:
            raise UserError(f"task {task.name!r} gives no feature {name!r}; it gives {', '.join(sorted(spec))}.")
        if name in extras:
            _check_extra(task, extras[name], spec[name])
            continue
        numbers = spec[name].dtype.is_integer or (name == "weights" and spec[name].dtype.is_floating)
        if spec[name].shape.rank != 1 or not numbers:
            raise UserError(
                f"task {task.name!r}: feature {name!r} must be a sequence of ids, it is {spec[name].dtype.name} of "
                f"shape {spec[name].shape}. Has it been tokenized?"
            )


def _check_extra(task: seqio.Task, extra: Extra, spec: Any) -> None:
    rank = 1 if extra.per == "target" else len(extra.shape)
    numbers = spec.dtype.is_integer or (extra.dtype == "float32" and spec.dtype.is_floating)
    if (
        not numbers
        or spec.shape.rank != rank
        or (extra.per == "example" and not spec.shape.is_compatible_with(extra.shape))
    ):
        wanted = "a value for each target" if extra.per == "target" else f"of shape {extra.shape}"
        raise UserError(
            f"task {task.name!r}: feature {extra.name!r} must be {extra.dtype} and {wanted}, it is {spec.dtype.name} of shape {spec.shape}."
        )


def _seed(seed: int | None, *parts: str | int) -> int:
    """Return a seed in [0, 2^30): SeqIO increments it, and TensorFlow needs 32 bits. Outside a run, None counts as 0."""
    digest = hashlib.blake2b(repr((seed or 0, *parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 2
