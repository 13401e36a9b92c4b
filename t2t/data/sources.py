"""A task or mixture -> `tf.data` of examples, for one virtual shard.

Randomness. The order of the source is drawn from a seed of (seed, place in the mixture), the same for all shards: where a source is
sharded by example, its shards partition one order. Preprocessors, shuffle buffers and mixing draw from a seed of (seed, place, shard),
so that shards do not repeat each other's choices. The source is repeated *before* any preprocessor, and SeqIO's seeds are streams that run on
over that border: each epoch is masked and shuffled anew, reproducibly, and a saved iterator holds its place in them.
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

# TensorFlow only reads data here; it must not claim the accelerators' memory.
try:
    tf.config.set_visible_devices([], "GPU")
except RuntimeError:
    _log.warning("TensorFlow was initialised before t2t.data and may hold GPU memory")


def options() -> tf.data.Options:
    """Return what every pipeline here is set to."""
    chosen = tf.data.Options()
    chosen.deterministic = True
    # Letting go of an iterator waits for its autotuner, which may have missed the call and sleeps for up to a minute.
    # Without it a parallel map has as many calls as there are cores.
    chosen.autotune.enabled = False
    # Python called with stateful=True and unseeded random ops hold a state that cannot be saved: refuse, do not guess.
    chosen.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.FAIL
    return chosen


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
    """Return the examples of one virtual shard: dicts of the layout's features, one-dimensional and not cut.

    A mixture draws from its tasks by their rates for ever, or, without `repeat`, until each has given every example once.

    Raises:
      UserError: a feature is missing or not a sequence of ids.
    """

    tasks = tasks_of(provider)

    @tf.autograph.experimental.do_not_convert
    def features(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # An example's extra array comes over flat; `Batch.extra` has its shape again. Tokens get their type and nothing else: tf.data leaves out or joins
        # maps by what is in them, and the stored position of a run that goes on is that of the maps that were left.
        flat = {x.name: tf.reshape(example[x.name], [-1]) for x in layout.extras}
        return {name: tf.cast({**example, **flat}[name], layout.dtype(name)) for name in layout.features}

    def one(task: seqio.Task) -> tf.data.Dataset:
        place = tasks.index(task)
        ds = raw(task, data, layout, place=place, shard=shard, shards=shards, repeat=repeat, shuffle=shuffle)
        check_features(task, layout, ds.element_spec)
        ds = ds.map(features, num_parallel_calls=tf.data.AUTOTUNE)
        if shuffle and task.shuffle_buffer_size is not None and data.cached is None:
            ds = ds.shuffle(_buffer(task, data), seed=_seed(data.seed, "order", place, shard))
        return ds

    def rate(task: seqio.Task) -> float:
        # A rate that depends on sizes is told those of the cache: the source need not be there. A mixture in the mixture
        # knows its tasks by identity.
        flat = set(provider.rate_per_task_name) <= {task.name for task in tasks}
        return provider.get_rate(CachedTask(data.cached, task).task() if data.cached is not None and flat else task)

    if isinstance(provider, seqio.Task):
        return one(provider)
    for task in tasks:
        if data.split not in task.splits:
            _log.warning("mixture %s: task %s has no split %s and is left out", provider.name, task.name, data.split)
    seed = _seed(data.seed, "mixture", shard)
    if not repeat:
        having = tasks_of(provider, data.split)
        return tf.data.Dataset.sample_from_datasets(
            [one(task) for task in having],
            [rate(task) for task in having],
            seed=seed,
            stop_on_empty_dataset=False,
        )
    # The mixture mixes as it was registered to; only its tasks' examples are made here.
    mixture: Any = copy.copy(provider)
    mixture.get_task_dataset = lambda task, *args, **kwargs: one(task)
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
    """Return a task's preprocessed examples with all the fields they carry, in the source's order.

    `place` is the task's in its mixture.
    """

    def made() -> tf.data.Dataset:
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

    return _built(made, task.name)


_converted: set[str] = set()
"""Tasks whose steps AutoGraph has to convert."""


def _built(made: Callable[[], tf.data.Dataset], name: str) -> tf.data.Dataset:
    """Return what `made` makes, with AutoGraph only where Python's own control flow on tensors fails without: it takes most of the time, and ours needs none.

    What it changes is what raises without it, so the data is the same.
    """
    if name not in _converted:
        try:
            return tf.autograph.experimental.do_not_convert(made)()
        except (UserError, Failure):
            raise
        except Exception as error:  # as many kinds as there are ways to use a tensor as a value
            _log.debug("task %s is built with AutoGraph: %s", name, error)
    ds = made()
    _converted.add(name)
    return ds


def _buffer(task: seqio.Task, data: Data) -> int:
    """Return the examples to draw from: as the run has it, or what the task was registered with, where that is less than what SeqIO gives any task."""
    own = task.shuffle_buffer_size
    return min(own, data.shuffle_buffer) if own < seqio.dataset_providers.SHUFFLE_BUFFER_SIZE else data.shuffle_buffer


def source(
    task: seqio.Task, data: Data, *, place: int = 0, shard: int = 0, shards: int = 1, shuffle: bool
) -> tf.data.Dataset:
    """Return one shard of a task's source: of its files where there are enough, else every `shards`-th example. A data set of TFDS is prepared first."""
    prepare(task.source)
    seed = _seed(data.seed, "source", place)
    if shards > 1 and not by_example(task, data.split, shards):
        ds = _read(task, data.split, shuffle, seed, seqio.ShardInfo(shard, shards))
    else:
        ds = _read(task, data.split, shuffle, seed, None).shard(shards, shard)
    return ds.with_options(options())


def by_example(task: seqio.Task, split: str, shards: int) -> bool:
    """Whether `source` gives each of so many shards every `shards`-th example, and not a part that is read alone."""
    return not task.source.supports_arbitrary_sharding and len(task.source.list_shards(split)) < shards


def _read(task: seqio.Task, split: str, shuffle: bool, seed: int, shard: seqio.ShardInfo | None) -> tf.data.Dataset:
    try:
        return task.source.get_dataset(split=split, shuffle=shuffle, seed=seed, shard_info=shard)
    except ValueError:
        # SeqIO refuses a seed for a function without the argument. Read in order it is reproducible still.
        if not isinstance(task.source, seqio.FunctionDataSource):
            raise
        return task.source.get_dataset(split=split, shuffle=False, shard_info=shard)


def check_features(task: seqio.Task, layout: FeatureConverter, spec: Mapping[str, Any]) -> None:
    """Raise UserError where a task's examples lack a feature of the converter or have it in another form than ids, or than an extra array asks for."""
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
    """Return a seed in [0, 2^30): SeqIO counts on from it, and TensorFlow wants 32 bits. Outside a run None is 0."""
    digest = hashlib.blake2b(repr((seed or 0, *parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 2
