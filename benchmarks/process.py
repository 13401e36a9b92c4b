"""A peer as a process that answers requests, and the processor time it takes while it should not."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.protocol import Answer

ROOT = Path(__file__).resolve().parent.parent
_ENVIRONMENT = {
    # XLA on CPUs and PyTorch both take and give back large blocks: all peers are given the huge pages that the `t2t` command asks for.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


class Lost(Exception):
    """A peer that ended, or took too long and was ended; the text says which."""


class Peer:
    """A process that speaks `benchmarks.protocol`. Starts at once, in a session of its own.

    command: words that start it, from the repository's root. log: file that gets what it prints.
    threads: cores it may use, where this process may use more.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path, threads: int = 2) -> None:
        self.name = name
        cores = sorted(os.sched_getaffinity(0))[:threads]
        words = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **_ENVIRONMENT, **dict.fromkeys(words, str(threads))}
        self._log = log
        with log.open("a", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                start_new_session=True,
            )
        # Long before it has imported what starts threads, which then have the same cores.
        os.sched_setaffinity(self._process.pid, cores)
        self._rest = b""

    def ask(self, request: Mapping[str, Any], *, limit: float = 600.0) -> Answer:
        """Return the answer to a request. Raises Lost where none came within `limit` seconds, or the process ended; it is then gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            until = time.monotonic() + limit
            answer = None
            while answer is None:
                answer = _answer(self._line(until, limit))
            return answer
        except OSError:
            raise self._lost("ended") from None

    def cpu_seconds(self) -> float:
        """Return the processor seconds of the process and all that it started, so far; 0.0 where the system does not tell (other than Linux)."""
        return sum(_cpu_seconds(pid) for pid in _tree(self._process.pid))

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            for name in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self._process.pid, name)
                    self._process.wait(timeout=5)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue
                break
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _line(self, until: float, limit: float) -> bytes:
        assert self._process.stdout is not None
        file = self._process.stdout.fileno()
        while b"\n" not in self._rest:
            ready, _, _ = select.select([file], [], [], max(until - time.monotonic(), 0.0))
            if not ready:
                raise self._lost(f"did not answer within {limit:g} seconds")
            got = os.read(file, 65536)
            if not got:
                raise self._lost("ended")
            self._rest += got
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _lost(self, how: str) -> Lost:
        self.close()
        tail = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return Lost(
            f"{self.name} {how} (exit code {self._process.poll()}); see {self._log}{': ' + tail[0] if tail else ''}"
        )


def _answer(line: bytes) -> Answer | None:
    """Return an answer, or None for what a library printed before the peer kept its standard output for answers."""
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


_TICKS = os.sysconf("SC_CLK_TCK")


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    # user and system time, its own and that of its children that ended (proc(5), fields 14 to 17)
    return sum(map(int, fields[11:15])) / _TICKS


def _tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:
            continue
        for child in children:
            found += _tree(int(child))
    return found
