"""`t2t cache TASK --out DIR`."""

from __future__ import annotations

import functools
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import tyro

from t2t.api.quiet import register_tasks
from t2t.api.user_code import imports
from t2t.api.vocabulary_file import vocabulary_of
from t2t.errors import UserError
from t2t.launch.output import console, table
from t2t.limits import FewOrZero, Parts
from t2t.paths import LocalPath, check_directory

if TYPE_CHECKING:
    from t2t.data.cached.manifest import Manifest


def cache(
    task: Annotated[str, tyro.conf.Positional],
    *,
    out: LocalPath,
    splits: tuple[str, ...] = (),
    shards: Parts = 16,
    workers: FewOrZero = 0,
    vocabulary: LocalPath | None = None,
    verify: bool = False,
    beam: str = "",
) -> None:
    """Prepare a task offline, in parallel. `t2t train ... --data.cached DIR` reads the result. After an interruption, the same command resumes.

    Args:
        task: task to prepare, or a mixture (all its tasks are prepared).
        out: output directory; each task gets a subdirectory.
        splits: splits to prepare. Default: all.
        shards: maximum number of files per split; small splits have fewer.
        workers: number of processes; 0 for one per core.
        vocabulary: vocabulary file to use instead of the task's vocabulary, as in training.
        verify: write nothing; compare every file with its checksum.
        beam: options of Apache Beam as one text, for example "--runner=FlinkRunner".
    """
    check_directory(out, "--out")
    register_tasks()
    from t2t.data.cached import manifest, writing
    from t2t.data.config import Data
    from t2t.data.registry import provider_of, tasks_of

    chosen = None if vocabulary is None else vocabulary_of(vocabulary)
    try:
        provider = provider_of(Data(task=task, vocabulary=chosen))
    except UserError as error:
        raise UserError(str(error).replace(" (--data.task)", "")) from None
    if verify:
        _show([manifest.verify(out, found.name) for found in tasks_of(provider)])
        return
    manifests = writing.cache(
        task,
        out,
        splits=splits,
        shards=shards,
        vocabulary=chosen,
        workers=workers or os.cpu_count() or 1,
        beam_options=shlex.split(beam),
        prepare=functools.partial(_prepare, imports.used()),
        tell=lambda line: print(line, file=sys.stderr),
    )
    _show(manifests)


def _prepare(specs: tuple[str, ...]) -> None:
    """Register the built-in tasks and the user's tasks in a worker process."""
    register_tasks()
    imports.use(specs)


def _show(manifests: Sequence[Manifest]) -> None:
    out = console()
    shown = table(
        out, "task", "split", "shards", "examples", "tokens", "bytes", right=("shards", "examples", "tokens", "bytes")
    )
    for manifest in manifests:
        for split, shards in manifest.splits.items():
            sums = [sum(getattr(shard, name) for shard in shards) for name in ("examples", "tokens", "size")]
            shown.add_row(manifest.task, split, f"{len(shards):,}", *(f"{value:,}" for value in sums))
    out.print(shown)
