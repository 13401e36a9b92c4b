"""Cache a task offline, shard by shard. Each shard is written under a temporary name and renamed when it is complete."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from t2t.config import loads
from t2t.data import sources
from t2t.data.cached import manifest as manifests
from t2t.data.cached import parallel
from t2t.data.cached.encoding import encode
from t2t.data.cached.manifest import Manifest, Shard
from t2t.data.cached.parallel import Job
from t2t.data.cached.steps import plan, with_placeholder
from t2t.data.config import Data
from t2t.data.faults import surfaced
from t2t.data.registry import provider_of, tasks_of
from t2t.errors import UserError, nearest
from t2t.vocabularies import Vocabulary

_log = logging.getLogger(__name__)

SMALLEST = 1000
"""Minimum number of examples in a shard, if the size of the source is known."""
CHUNK = 16_384
"""Target size of a chunk in bytes. Reading a record decodes its whole chunk. The index, which readers keep in memory, has an entry per chunk."""
EVERY = 30
"""Seconds between progress lines."""
_SAMPLE = 64
_BEAM_SUFFIX = re.compile(r" \[while running '[^']*'\].*$")


def cache(
    name: str,
    out: str,
    *,
    splits: Sequence[str] = (),
    shards: int = 16,
    vocabulary: Vocabulary | None = None,
    workers: int = 1,
    beam_options: Sequence[str] = (),
    prepare: Callable[[], None] | None = None,
    tell: Callable[[str], None] = _log.info,
) -> list[Manifest]:
    """Cache a task, or each task of a mixture, in `out`. Continue an earlier call that was interrupted.

    Args:
      name: name of a task or mixture.
      splits: the splits to cache. Empty means all.
      shards: maximum number of files in a split. A split of known size gets at most one file for every `SMALLEST` examples.
      vocabulary: replaces the task's own vocabulary.
      workers: processes of Beam's direct runner, unless `beam_options` name another runner. 1 without options writes in this process.
      beam_options: options for Beam, for example "--runner=FlinkRunner".
      prepare: called on each worker to register what `name` needs. Must be picklable.
      tell: called with each progress line.

    Raises:
      UserError: the task or a split is unknown, `out` has a cache of something else, or the source reports an error.
    """
    if shards < 1:
        raise UserError(f"shards={shards}: must be at least 1 (--shards).")
    if workers < 1:
        raise UserError(f"workers={workers}: must be at least 1 (--workers).")
    provider = provider_of(Data(task=name, vocabulary=vocabulary))
    for split in splits:
        if split not in provider.splits:
            raise UserError(
                f"task {name!r} has no split {split!r} (--splits); it has {', '.join(map(str, provider.splits))}."
                f"{nearest(split, map(str, provider.splits))}"
            )
    try:
        jobs: list[Job] = []
        messages: list[str] = []  # printed after all checks have passed
        plans: list[tuple[Path, Manifest]] = []
        for task in map(with_placeholder, tasks_of(provider)):
            chosen = [str(split) for split in task.splits if not splits or split in splits]
            if not chosen:
                messages.append(f"{task.name}: has none of the requested splits (--splits) and is skipped")
                continue
            spec = examples(task, chosen[0], 0, 1).element_spec
            wanted = plan(task, {split: _files(task, split, shards) for split in chosen}, spec)
            directory = manifests.directory_of(out, task.name)
            wanted = _merge_plan(directory, wanted)
            plans.append((directory, wanted))
            missing = _missing(directory, wanted)
            total = sum(wanted.sharding.values())
            messages.append(f"{task.name}: {total - len(missing)} of {total} shards are complete")
            jobs += [
                Job(
                    provider=name,
                    vocabulary=vocabulary,
                    task=task.name,
                    split=split,
                    index=index,
                    count=wanted.sharding[split],
                    directory=str(directory),
                    manifest=wanted,
                )
                for split, index in missing
            ]
        if jobs and (workers > 1 or beam_options):
            parallel.check_installed()
        for line in messages:
            tell(line)
        if jobs:
            with _report_progress(plans, tell):
                _run(jobs, workers, beam_options, prepare)
        return [_finish(directory, wanted) for directory, wanted in plans]
    except Exception as error:
        found = surfaced(error)
        if isinstance(found, UserError):
            raise UserError(_BEAM_SUFFIX.sub("", str(found))) from error
        raise


def examples(task: seqio.Task, split: str, shard: int, shards: int) -> tf.data.Dataset:
    """Return the examples of a shard after the cached steps, in the order of the source.

    task: a task that `with_placeholder` returned.
    """
    dataset = sources.source(task, Data(task=task.name, split=split), shard=shard, shards=shards, shuffle=False)
    return task.preprocess_precache(dataset, seed=0).with_options(sources.options())


def write(job: Job) -> Shard:
    """Write a shard and then its record. Both files appear only when they are complete."""
    from array_record.python import array_record_module

    provider = provider_of(Data(task=job.provider, vocabulary=job.vocabulary))
    task = with_placeholder(next(task for task in tasks_of(provider) if task.name == job.task))
    directory = Path(job.directory)
    file = manifests.shard_name(job.split, job.index, job.count)
    part = directory / f".{file}.{os.getpid()}.tmp"
    fields = job.manifest.fields
    features = [name for name in task.output_features if name in fields and fields[name].rank == 1]
    count = tokens = 0
    found = iter(tfds.as_numpy(examples(task, job.split, job.index, job.count)))
    first = list(itertools.islice(found, _SAMPLE))
    size = sum(len(encode(example, fields)) for example in first) // max(1, len(first))
    group = min(max(1, CHUNK // max(1, size)), 128)
    writer = array_record_module.ArrayRecordWriter(str(part), f"group_size:{group},zstd:3")
    try:
        for example in itertools.chain(first, found):
            writer.write(encode(example, fields))
            count += 1
            tokens += sum(len(example[name]) for name in features)
    finally:
        writer.close()
    result = Shard(
        file=file,
        examples=count,
        tokens=tokens,
        every=job.count if sources.by_example(task, job.split, job.count) else 1,
        size=part.stat().st_size,
        sha256=manifests.checksum(part),
    )
    os.replace(part, directory / file)
    manifests.write(directory, manifests.record_of(file), result)
    return result


def _files(task: seqio.Task, split: str, shards: int) -> int:
    size = task.num_input_examples(split)
    return shards if size is None else min(shards, max(1, size // SMALLEST))


def _merge_plan(directory: Path, wanted: Manifest) -> Manifest:
    """Return the plan extended by the splits that are already cached. Write the plan and a record for each cached shard.

    Raises:
      UserError: the directory has a cache of something else.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in (manifests.MANIFEST, manifests.PLAN):
        path = directory / name
        if not path.is_file():
            continue
        existing = loads(path.read_text(encoding="utf-8"), where=str(path))
        if changed := manifests.differences(existing, wanted):
            raise UserError(
                f"{directory} (--out) is a cache of something else: {changed[0]}. Nearest: another directory."
            )
        wanted = replace(wanted, sharding=existing.sharding | wanted.sharding)
        for shards in existing.splits.values():
            for shard in shards:
                manifests.write(directory, manifests.record_of(shard.file), shard)
    manifests.write(directory, manifests.PLAN, wanted)
    (directory / manifests.MANIFEST).unlink(missing_ok=True)
    for leftover in directory.glob(".*.tmp"):  # left by a run that was killed
        leftover.unlink()
    return wanted


def _missing(directory: Path, wanted: Manifest) -> list[tuple[str, int]]:
    """Check the content of the existing shards. Return the shards that must be written."""
    missing = []
    for split, count in wanted.sharding.items():
        for index in range(count):
            record = directory / manifests.record_of(manifests.shard_name(split, index, count))
            if not record.is_file():
                missing.append((split, index))
                continue
            found = manifests.problem(directory, loads(record.read_text(), where=str(record)), content=True)
            if found:
                _log.warning("%s: rewriting it", found)
                record.unlink()
                missing.append((split, index))
    return missing


def _finish(directory: Path, wanted: Manifest) -> Manifest:
    records = {
        split: [directory / manifests.record_of(manifests.shard_name(split, i, count)) for i in range(count)]
        for split, count in wanted.sharding.items()
    }
    manifest = replace(
        wanted,
        splits={
            split: tuple(loads(path.read_text(), where=str(path)) for path in paths) for split, paths in records.items()
        },
    )
    for split in manifest.splits:
        if not manifest.examples(split):
            raise UserError(f"task {manifest.task!r}, split {split!r} has no examples to cache.")
    manifests.write(directory, manifests.MANIFEST, manifest)
    for paths in records.values():
        for path in paths:
            path.unlink()
    (directory / manifests.PLAN).unlink()
    return manifest


@contextlib.contextmanager
def _report_progress(plans: Sequence[tuple[Path, Manifest]], tell: Callable[[str], None]) -> Iterator[None]:
    """Report every `EVERY` seconds how many shards are complete, whichever process writes them."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(EVERY):
            for directory, wanted in plans:
                tell(
                    f"{wanted.task}: {manifests.count_complete(directory)} of {sum(wanted.sharding.values())} shards are complete"
                )

    thread = threading.Thread(target=watch, name="t2t-cache-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _run(jobs: Sequence[Job], workers: int, beam_options: Sequence[str], prepare: Callable[[], None] | None) -> None:
    if workers == 1 and not beam_options:
        # Beam would do the same, but it takes several seconds to start and may not be installed.
        for job in jobs:
            write(job)
    else:
        parallel.run(jobs, workers, beam_options, prepare)
