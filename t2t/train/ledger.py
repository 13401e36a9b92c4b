"""Account for a run's time, over all its restarts: RUN/ledger.jsonl and goodput, the fraction of time spent on training that was kept.

A line has the seconds that each kind of work took since its process started. Training after a checkpoint that a rewind returned to, or that a
later process resumed from, counts as lost.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2t.json_files import NotJson, json_value

FILE = "ledger.jsonl"
KINDS = ("import", "start", "open", "compile", "restore", "data", "eval", "save", "profile", "lost")
"""The kinds of work that are measured.

"compile" is the time spent waiting for the compiler thread, "open" the time spent waiting for the data to open, and "start" the rest of the time
before the first step. "train" is the rest of the time after it. `read` adds to "lost", and finds "down", by comparing the lines of processes.
"""


class Ledger:
    """Adds up the seconds of one process since `began` (time.time()). imported: seconds that imports took before."""

    def __init__(self, began: float | None = None, imported: float = 0.0) -> None:
        self.began = time.time() if began is None else began
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.seconds["import"] = imported
        self._training_since: float | None = None
        self._trained: list[tuple[int, float]] = []

    @contextlib.contextmanager
    def time(self, kind: str) -> Iterator[None]:
        """Add the time inside the context to `kind`."""
        before = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - before

    def training(self) -> None:
        """Start the time of steps. Time before that was not measured is "start"."""
        if self._training_since is None:
            self._training_since = time.time()
            self.seconds["start"] = max(0.0, self._training_since - self.began - sum(self.seconds.values()))

    def totals(self, waited: float) -> dict[str, float]:
        """Return the seconds of each kind up to now. waited: seconds spent waiting for data."""
        seconds = {**self.seconds, "data": waited}
        elapsed = time.time() - self.began
        return {**seconds, "train": max(0.0, elapsed - sum(seconds.values())) if self._training_since else 0.0}

    def go_back(self, step: int, waited: float) -> None:
        """Count the training since `step` as lost: the time since the last line of that step or of an earlier one."""
        self._trained = [(at, train) for at, train in self._trained if at <= step]
        kept = self._trained[-1][1] if self._trained else 0.0
        self.seconds["lost"] += self.totals(waited)["train"] - kept

    def line(self, step: int, start: int, waited: float) -> str:
        """Return a line of the file. start: the step from which this process started."""
        totals = self.totals(waited)
        self._trained.append((step, totals["train"]))
        seconds = {kind: round(value, 3) for kind, value in totals.items()}
        record = {"began": round(self.began, 3), "time": round(time.time(), 3), "start": start, "step": step}
        return json.dumps({**record, "seconds": seconds}) + "\n"


@dataclass(frozen=True, kw_only=True)
class Account:
    """The total time of a run.

    seconds:   seconds of each kind. "lost" is training that was repeated after a failure, "down" is the time between processes.
    processes: number of times the run was started.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    processes: int = 0

    @property
    def total(self) -> float:
        """Seconds from the first start to the last line."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """The fraction of the total time spent on training that was kept; 0 if there is none."""
        return self.seconds.get("train", 0.0) / self.total if self.total else 0.0


def _is_whole(record: Any) -> bool:
    """Return whether a record has all required fields."""

    def number(value: Any) -> bool:
        return isinstance(value, int | float) and math.isfinite(value)

    return (
        isinstance(record, dict)
        and all(number(record.get(name)) for name in ("began", "time", "step", "start"))
        and isinstance(record.get("seconds"), dict)
        and "train" in record["seconds"]
        and all(map(number, record["seconds"].values()))
    )


def read(directory: Path) -> Account:
    """Return the account of RUN/ledger.jsonl. Incomplete lines are skipped."""
    processes: dict[float, list[dict]] = {}
    path = directory / FILE
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(NotJson):
            record = json_value(line)
            if _is_whole(record):
                processes.setdefault(record["began"], []).append(record)
    seconds = dict.fromkeys((*KINDS, "train", "down"), 0.0)
    ordered = [processes[began] for began in sorted(processes)]
    for number, lines in enumerate(ordered):
        last = lines[-1]
        for kind, value in last["seconds"].items():
            seconds[kind] = seconds.get(kind, 0.0) + value
        if number + 1 == len(ordered):
            continue
        following = ordered[number + 1][0]
        # Take the last such line in the file: a rewind makes earlier ones invalid.
        kept = next((line["seconds"]["train"] for line in reversed(lines) if line["step"] <= following["start"]), 0.0)
        lost = last["seconds"]["train"] - kept
        seconds["train"] -= lost
        seconds["lost"] += lost
        seconds["down"] += max(0.0, following["began"] - last["time"])
    return Account(seconds=seconds, processes=len(ordered))
