"""Write shards with Apache Beam, one element per shard: in local processes, or with one of Beam's runners.

This module imports neither SeqIO nor TensorFlow. A worker imports it first, and imports those, which print messages, only after `prepare`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from t2t.data.cached.manifest import Manifest
from t2t.errors import UserError
from t2t.installing import how_to_install
from t2t.vocabularies import Vocabulary

_LOCAL_RUNNERS = ("directrunner", "direct", "fnapirunner", "fnapi")


@dataclass(frozen=True, kw_only=True)
class Job:
    """The description of one shard to write. A worker on any machine can use it.

    provider:   the task or mixture to cache.
    vocabulary: replaces the vocabulary of the provider.
    task:       the task of the shard.
    """

    provider: str
    vocabulary: Vocabulary | None
    task: str
    split: str
    index: int
    count: int
    directory: str
    manifest: Manifest


def check_installed() -> None:
    """Raise UserError if Beam is not installed."""
    try:
        installed = importlib.util.find_spec("apache_beam") is not None
    except ValueError:  # a module without a specification
        installed = False
    if not installed:
        raise UserError(
            f"--workers above 1 and --beam need Apache Beam, which is not installed: {how_to_install('cache')}. Nearest: --workers 1."
        )


def run(jobs: Sequence[Job], workers: int, beam_options: Sequence[str], prepare: Callable[[], None] | None) -> None:
    """Write all shards.

    workers:      number of local processes, if `beam_options` name no runner or Beam's direct runner.
    beam_options: options for Beam.
    prepare:      called on each worker before a shard. Must be picklable.

    Raises:
      UserError: Beam is not installed, or rejects the options.
    """
    check_installed()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Beam logs which of its extras are not installed
    try:
        import apache_beam as beam
    finally:
        logging.disable(level)
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):  # Beam prints all its options before the error message
            pipeline = _pipeline(list(beam_options), min(workers, len(jobs)))
    except (SystemExit, ValueError, ImportError) as error:
        reason = stderr.getvalue().rpartition("error: ")[2] if isinstance(error, SystemExit) else str(error)
        raise UserError(f"--beam {' '.join(beam_options)!r}: Beam rejects it: {' '.join(reason.split())}") from None
    with pipeline:
        # There are few elements and each takes long. Reshuffle distributes them one by one to the workers.
        _ = (
            pipeline
            | "Shards" >> beam.Create(list(jobs))
            | beam.Reshuffle()
            | "Write" >> beam.Map(functools.partial(_work, prepare))
        )


def _pipeline(arguments: list[str], workers: int) -> Any:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

    options = PipelineOptions(arguments)
    options.get_all_options()  # parses the options; exits if one is invalid
    runner = options.view_as(StandardOptions).runner
    if runner is not None and runner.lower() not in _LOCAL_RUNNERS:
        return beam.Pipeline(options=options)
    # Do not use Beam's "DirectRunner": it first tries to download another runner (Prism), and its worker processes write
    # to the terminal.
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    if workers == 1:
        return beam.Pipeline(runner=FnApiRunner(), options=options)
    worker = SubprocessSDKEnvironment.from_command_string(f"exec '{sys.executable}' -m t2t.data.cached.worker")
    options = PipelineOptions([f"--direct_num_workers={workers}", *arguments])
    return beam.Pipeline(runner=FnApiRunner(default_environment=worker), options=options)


def _work(prepare: Callable[[], None] | None, job: Job) -> None:
    if prepare is not None:
        prepare()
    from t2t.data.cached.writing import write

    write(job)
