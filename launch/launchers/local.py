"""`t2t launch local`: processes on this machine, that end together."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

import tyro

from t2t.distributed.environment import COORDINATOR, DEVICES, LAUNCHER, PROCESS, PROCESSES
from t2t.distributed.ports import cannot_listen, free_port, loopback, own_names_address
from t2t.errors import UserError
from t2t.launch.codes import DONE, FAILED, MISTAKE, STOPPED
from t2t.limits import Configuration, CountOrZero, Few, Port, Range
from t2t.train.stop import handle

GRACE = 3.0
"""Seconds that the others have, after one has failed, to say what they saw of it."""


@dataclass(frozen=True, kw_only=True)
class Local(Configuration):
    """Start processes on this machine that find each other on the loopback interface; where one fails, all end.

    Each line that a process writes is printed with the process's number before it. SIGTERM, SIGINT, SIGUSR1 and SIGHUP are passed on to all: the
    training saves and ends with code 75. No process outlives the launcher.

    Args:
        processes: how many.
        devices_per_process: virtual CPU devices of each; JAX's own choice by default.
        gpus_per_process: GPUs of each, counted through in the order of the processes; by default each sees them all.
        restarts: how often to start again, from the last checkpoint, after a failure that is not a mistake in what was asked for.
        port: of process 0, at which the others find it; a free one by default.
    """

    processes: Annotated[int, Range(1, 1024), tyro.conf.arg(aliases=("-n",))] = 2
    devices_per_process: Few | None = None
    gpus_per_process: Few | None = None
    restarts: CountOrZero = 0
    port: Port | None = None

    def check(self) -> None:
        """Refuse what cannot be. Raises UserError."""
        if self.port is not None:
            self._check_port(self.port)
        if self.devices_per_process is not None and self.gpus_per_process is not None:
            raise UserError(
                "t2t launch local: --devices-per-process is of CPU devices, --gpus-per-process of GPUs: give one of them"
            )
        if self.gpus_per_process is not None and self.processes == 1:
            raise UserError(
                f"t2t launch local: --gpus-per-process {self.gpus_per_process} deals GPUs out to several processes, --processes is 1. Nearest:"
                " CUDA_VISIBLE_DEVICES, or --processes 2."
            )

    def _check_port(self, port: int) -> None:
        # Another program may listen at one of the two addresses alone: the port is its all the same.
        reason = cannot_listen("127.0.0.1", port) or cannot_listen(loopback(), port)
        if reason:
            raise UserError(
                f"t2t launch local: --port {port}: {reason}. Nearest: {free_port()}, or no --port, which takes a free one."
            )

    def launch(self, words: Sequence[str]) -> int:
        """Run `t2t WORDS` in each process and return the exit code of all together. Raises UserError for options that cannot be."""
        self.check()
        if self.processes > 1 and self.gpus_per_process is None and (address := own_names_address()):
            _say(
                f"CPUs exchange numbers by Gloo, which listens at {address}, where this machine's own name leads; a line"
                f" '127.0.0.1 {socket.gethostname()}' in /etc/hosts keeps it to this machine"
            )
        return run([sys.executable, "-m", "t2t.launch", *words], self)

    def environment(self, process: int, port: int) -> dict[str, str]:
        """Return the environment of one process."""
        host = loopback()
        values = {
            **os.environ,
            **_without_proxy(),
            COORDINATOR: f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            PROCESSES: str(self.processes),
            PROCESS: str(process),
            LAUNCHER: str(os.getpid()),
            "PYTHONUNBUFFERED": "1",  # what a process said before it was killed must not be lost
        }
        if self.devices_per_process is not None:
            values[DEVICES] = str(self.devices_per_process)
            values.setdefault("JAX_PLATFORMS", "cpu")
        if self.gpus_per_process is not None:
            first = process * self.gpus_per_process
            values["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(first + i) for i in range(self.gpus_per_process))
        return values


def _without_proxy() -> dict[str, str]:
    """Return what keeps gRPC, with which the processes find each other, from asking a proxy for this machine."""
    if not any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        return {}
    others = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy")  # noqa: SIM112 (gRPC's spelling)
    return {"no_grpc_proxy": ",".join(filter(None, (others, "localhost", "127.0.0.1", "::1")))}


def run(command: Sequence[str], local: Local) -> int:
    """Run a command in each process, again after failures where asked to, and return the exit code."""
    asked = _Asked()
    with asked:
        for attempt in range(local.restarts + 1):
            code = _Attempt(command, local, asked).run()
            if code in (DONE, MISTAKE, STOPPED) or asked.signals:
                return code
            if attempt < local.restarts:
                _say(f"starting again from the last checkpoint (restart {attempt + 1} of {local.restarts})")
    return code


class _Asked:
    """The signals that have come, and a file that becomes readable with each."""

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Asked:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._previous = handle(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self.reader)
        os.close(self._writer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signals.append(signal.Signals(number))
        with suppress(BlockingIOError):
            os.write(self._writer, b".")


class _Attempt:
    """One start of all processes, to the end of the last."""

    def __init__(self, command: Sequence[str], local: Local, asked: _Asked) -> None:
        self._command, self._local, self._asked = command, local, asked
        self._passed_on = len(asked.signals)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended: dict[int, int] = {}  # in the order in which they ended
        self._failed: int | None = None
        self._deadline: float | None = None
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Start the processes, relay what they write and the signals that come, and return the code of all together."""
        try:
            self._start()
            while len(self._ended) < len(self._processes):
                self._relay(0.1)
                self._pass_signals_on()
                self._collect()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._signal_all(signal.SIGKILL)
            self._drain()
        finally:
            # Whatever happened here: no process stays, nor one that it started in turn.
            for process in self._processes:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            self._selector.close()
        return self._code()

    def _start(self) -> None:
        port = self._local.port or free_port(loopback())
        self._selector.register(self._asked.reader, selectors.EVENT_READ, None)
        for index in range(self._local.processes):
            process = subprocess.Popen(
                self._command,
                env=self._local.environment(index, port),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # a terminal's Ctrl-C comes to the launcher alone, which passes it on once
            )
            self._processes.append(process)
            assert process.stdout is not None
            assert process.stderr is not None
            prefix = f"[{index}] ".encode()
            for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                os.set_blocking(source.fileno(), False)
                self._selector.register(source, selectors.EVENT_READ, _Lines(prefix, target))

    def _relay(self, timeout: float) -> bool:
        """Print what has come; return whether anything has."""
        events = self._selector.select(timeout)
        for key, _ in events:
            data = os.read(key.fd, 65536)
            if key.data is None:  # a signal: only to wake up
                continue
            key.data.add(data)
            if not data:
                self._selector.unregister(key.fileobj)
        return any(key.data is not None for key, _ in events)

    def _drain(self) -> None:
        """Print what the processes wrote last. Not to the end of the files: a process of theirs may hold them open."""
        while self._relay(0):
            pass
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.data.add(b"")

    def _pass_signals_on(self) -> None:
        for number in self._asked.signals[self._passed_on :]:
            self._passed_on += 1
            if number == signal.SIGINT and self._asked.signals.count(signal.SIGINT) > 1:
                _say("interrupted twice: ending all now")
                self._signal_all(signal.SIGKILL)
            else:
                _say(f"{number.name} passed on to all processes")
                self._signal_all(number)

    def _collect(self) -> None:
        for index, process in enumerate(self._processes):
            if index in self._ended or process.poll() is None:
                continue
            code = self._ended[index] = process.returncode
            if code in (DONE, STOPPED) or self._failed is not None:
                continue
            self._failed = index
            if code != MISTAKE:  # of which the processes themselves tell
                _say(f"process {index} of {len(self._processes)} (pid {process.pid}) {_spell(code)}; ending the others")
                self._signal_all(signal.SIGTERM)
            self._deadline = time.monotonic() + GRACE

    def _signal_all(self, number: signal.Signals) -> None:
        for index, process in enumerate(self._processes):
            if index not in self._ended:
                _signal_group(process, number)

    def _code(self) -> int:
        if self._asked.signals:
            unsaved = [index for index, code in self._ended.items() if code not in (DONE, STOPPED)]
            if unsaved:
                _say(
                    f"process {unsaved[0]} {_spell(self._ended[unsaved[0]])} before it had saved; the last checkpoint stands"
                )
            return DONE if all(code == DONE for code in self._ended.values()) else STOPPED
        if self._failed is not None:
            code = self._ended[self._failed]
            return code if code > 0 else FAILED
        return STOPPED if STOPPED in self._ended.values() else DONE


_CHATTER = b" peer ranks. Expected number of connected peer ranks is : "
"""What lines hold that Gloo writes to standard output, among the results, for each group of processes it connects."""


class _Lines:
    """Whole lines of a process, with its prefix, on the launcher's own output of that kind."""

    def __init__(self, prefix: bytes, target: Any) -> None:
        self._prefix, self._target, self._rest = prefix, target, b""

    def add(self, data: bytes) -> None:
        """Print the lines that `data` completes; with no data, the rest."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        with suppress(BrokenPipeError):  # nobody reads: the processes go on all the same
            for line in lines:
                if _CHATTER in line:
                    continue
                self._target.write((self._prefix + line).decode(errors="replace") + "\n")
            self._target.flush()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
        os.killpg(process.pid, number)


def _spell(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = " (out of memory? the kernel's log tells)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"


def _say(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)
