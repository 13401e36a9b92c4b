"""Run a peer as a process that answers requests, and measure its CPU time."""

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
    # XLA on CPUs and PyTorch allocate and free large blocks. All peers use huge pages, as the `t2t` command does.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "JAX_PLATFORMS": "cpu",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


class Lost(Exception):
    """Raised if a peer exited, or timed out and was killed. The message says which."""


class Peer:
    """A process that implements `benchmarks.protocol`. It starts immediately, in its own session.

    command: command line, run in the root of the repository.
    log:     file for its output.
    threads: maximum number of cores and threads.
    """

    def __init__(self, name: str, command: Sequence[str], *, log: Path, threads: int = 2) -> None:
        self.name = name
        cores = sorted(os.sched_getaffinity(0))[:threads]
        variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        environment = {**os.environ, **_ENVIRONMENT, **dict.fromkeys(variables, str(threads))}
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
        # Set this early: threads that libraries start later inherit the cores.
        os.sched_setaffinity(self._process.pid, cores)
        self._rest = b""

    def ask(self, request: Mapping[str, Any], *, limit: float = 600.0) -> Answer:
        """Return the answer to a request. Raise Lost if none comes within `limit` seconds or the process exits; in both cases the process is ended."""
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
        """Return the CPU seconds of the process and all its descendants so far; 0.0 on systems other than Linux."""
        return sum(_cpu_seconds(pid) for pid in _tree(self._process.pid))

    def close(self) -> None:
        """End the process."""
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
    """Parse an answer. Return None for output that a library printed before `serve` redirected standard output."""
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
    # User and system time of the process and its exited children (proc(5), fields 14 to 17).
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
