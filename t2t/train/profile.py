"""Profiles: a trace of a few steps, as JAX's profiler writes it, and the program that was traced, in RUN/profile.

RUN/profile/steps_FIRST_LAST is a directory that TensorBoard's profile plugin (XProf) opens: plugins/profile/TIME/HOST.xplane.pb. Beside it lies the text of
the compiled step, which has for each operation where in the model it comes from: traces name operations alone.
"""

from __future__ import annotations

import contextlib
import gzip
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from t2t.errors import UserError, writing

DIRECTORY = "profile"
PROGRAM = "step.hlo.gz"
MOST = 100
"""Steps that a profile may have: a trace is held in memory, every operation of every step in it."""


def steps_of(profile: str, last: int) -> tuple[int, int]:
    """Return the first and the last step to trace, of "FIRST:LAST"; both are traced.

    last: of the run.
    Raises UserError for anything else, steps that the run does not have, and more than `MOST`.
    """
    found = re.fullmatch(r"(\d+):(\d+)", profile)
    if found is None:
        number = re.match(r"\d+", profile)
        near = min(max(int(number[0]), 1), last) if number else min(10, last)
        raise UserError(f"profile {profile!r} (--profile) is not FIRST:LAST. Nearest: {near}:{min(near + 4, last)}.")
    first, end = int(found[1]), int(found[2])
    begin = min(max(first, 1), last)
    nearest = f"Nearest: {begin}:{min(max(end, begin), last, begin + MOST - 1)}."
    if not 1 <= first <= end:
        raise UserError(
            f"profile {profile} (--profile): steps count from 1, and the first is not after the last. {nearest}"
        )
    if end > last:
        raise UserError(f"profile {profile} (--profile): the run has {last:,} steps (--steps). {nearest}")
    if end - first >= MOST:
        raise UserError(f"profile {profile} (--profile) has {end - first + 1:,} steps, more than {MOST}. {nearest}")
    return first, end


class Tracer:
    """Traces the steps that `profile` names, on process 0 alone; without a profile nothing is done.

    A run that goes on within those steps traces what is left of them, one that goes on behind them nothing. Leaving the context ends a trace that is open.

    steps:   of the run.
    program: gives the text of the compiled step.
    """

    def __init__(self, directory: Path, profile: str | None, steps: int, program: Callable[[], str]) -> None:
        self._first, self._last = (0, 0) if profile is None or jax.process_index() else steps_of(profile, steps)
        self._directory, self._program = directory / DIRECTORY, program
        self._open: Path | None = None
        self._done = not self._first

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            self.end()

    def missed(self, start: int) -> str | None:
        """Return what to say where the run goes on from `start`, behind the steps to trace."""
        if self._done or start < self._last:
            return None
        return f"--profile {self._first}:{self._last}: the run goes on from step {start}, none of these steps is traced"

    def begins(self, step: int) -> bool:
        """Whether `step`, the next one, is the first to trace: then `begin` is to be called, with nothing left for the devices to do."""
        return not self._done and self._open is None and self._first <= step <= self._last

    def ends(self, step: int) -> bool:
        """Whether `step`, the one before, was the last to trace: then `end` is to be called, when it is done."""
        return self._open is not None and step >= self._last

    def begin(self, step: int) -> None:
        """Begin to trace."""
        path = self._directory / f"steps_{step}_{self._last}"
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / PROGRAM).write_bytes(gzip.compress(self._program().encode("utf-8")))
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each call of Python would be an event, and slow the step down
        jax.profiler.start_trace(path, profiler_options=options)
        self._open = path

    def end(self) -> Path:
        """End the trace and write it; return its directory."""
        path, self._open, self._done = self._open, None, True
        assert path is not None, "a trace is open"
        with writing(path):
            jax.profiler.stop_trace()
        return path

    @contextlib.contextmanager
    def _marked(self, step: int) -> Iterator[None]:
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def step(self, step: int) -> Any:
        """Return a context in which `step` is dispatched: XProf tells traced steps from each other by it."""
        return contextlib.nullcontext() if self._open is None else self._marked(step)
