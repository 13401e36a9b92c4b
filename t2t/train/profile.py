"""Profiles in RUN/profile: a trace of a few steps by JAX's profiler, and the traced program.

TensorBoard's profile plugin (XProf) opens the directory RUN/profile/steps_FIRST_LAST, which has plugins/profile/TIME/HOST.xplane.pb. The directory
also has the text of the compiled step. It shows which part of the model each operation comes from; traces have only the names of operations.
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
"""Maximum number of steps of a profile. A trace is held in memory and has every operation of every step."""


def steps_of(profile: str, last: int) -> tuple[int, int]:
    """Return the first and the last step to trace, from "FIRST:LAST"; both are traced.

    last: the last step of the run.
    Raises UserError for another format, for steps that the run does not have, and for more than `MOST` steps.
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
            f"profile {profile} (--profile): steps count from 1, and the first must not be after the last. {nearest}"
        )
    if end > last:
        raise UserError(f"profile {profile} (--profile): the run has {last:,} steps (--steps). {nearest}")
    if end - first >= MOST:
        raise UserError(f"profile {profile} (--profile) has {end - first + 1:,} steps, more than {MOST}. {nearest}")
    return first, end


class Tracer:
    """Traces the steps of `profile`, on process 0 only. Without a profile it does nothing.

    A run that resumes within these steps traces the rest of them. A run that resumes after them traces nothing. Leaving the context ends an open
    trace.

    steps:   number of steps of the run.
    program: returns the text of the compiled step.
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
        """Return a message if the run resumes from `start`, after the steps to trace, else None."""
        if self._done or start < self._last:
            return None
        return f"--profile {self._first}:{self._last}: the run resumes from step {start}, none of these steps is traced"

    def begins(self, step: int) -> bool:
        """Return whether `step`, the next step, is the first to trace. If so, call `begin` when the devices are idle."""
        return not self._done and self._open is None and self._first <= step <= self._last

    def ends(self, step: int) -> bool:
        """Return whether `step`, the step before, was the last to trace. If so, call `end` when it is done."""
        return self._open is not None and step >= self._last

    def begin(self, step: int) -> None:
        """Start the trace."""
        path = self._directory / f"steps_{step}_{self._last}"
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            (path / PROGRAM).write_bytes(gzip.compress(self._program().encode("utf-8")))
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # an event for each Python call would slow down the step
        jax.profiler.start_trace(path, profiler_options=options)
        self._open = path

    def end(self) -> Path:
        """End the trace and write it. Return its directory."""
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
        """Return a context in which to dispatch `step`. XProf uses it to separate steps."""
        return contextlib.nullcontext() if self._open is None else self._marked(step)
