"""`t2t launch local`: several processes on this machine. If one fails, all end."""

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
"""Seconds between the failure of one process and the kill of the others, in which they can print their errors."""


@dataclass(frozen=True, kw_only=True)
class Local(Configuration):
    """Start several processes on this machine, connected over the loopback interface. If one fails, all end.

    Each line of output starts with the number of its process. SIGTERM, SIGINT, SIGUSR1 and SIGHUP are forwarded to all processes: the
    training saves and exits with code 75. No process outlives the launcher.

    Args:
        processes: number of processes.
        devices_per_process: virtual CPU devices per process. Default: JAX's default.
        gpus_per_process: GPUs per process, assigned in order. Default: each process sees all GPUs.
        restarts: maximum number of restarts from the last checkpoint, after a failure that is not a user's mistake.
        port: port of process 0, to which the other processes connect. Default: a free port.
    """

    processes: Annotated[int, Range(1, 1024), tyro.conf.arg(aliases=("-n",))] = 2
    devices_per_process: Few | None = None
    gpus_per_process: Few | None = None
    restarts: CountOrZero = 0
    port: Port | None = None

    def check(self) -> None:
        """Raise UserError for invalid options."""
        if self.port is not None:
            self._check_port(self.port)
        if self.devices_per_process is not None and self.gpus_per_process is not None:
            raise UserError(
                "t2t launch local: --devices-per-process is for CPU devices, --gpus-per-process is for GPUs: give one of them"
            )
        if self.gpus_per_process is not None and self.processes == 1:
            raise UserError(
                f"t2t launch local: --gpus-per-process {self.gpus_per_process} needs several processes, but --processes is 1. Nearest:"
                " CUDA_VISIBLE_DEVICES, or --processes 2."
            )

    def _check_port(self, port: int) -> None:
        # Another program may listen on only one of the two addresses; the port is still not free.
        reason = cannot_listen("127.0.0.1", port) or cannot_listen(loopback(), port)
        if reason:
            raise UserError(
                f"t2t launch local: --port {port}: {reason}. Nearest: {free_port()}, or no --port, which selects a free port."
            )

    def launch(self, words: Sequence[str]) -> int:
        """Run `t2t WORDS` in each process and return the overall exit code. Raises UserError for invalid options."""
        self.check()
        if self.processes > 1 and self.gpus_per_process is None and (address := own_names_address()):
            _log(
                f"CPU processes communicate with Gloo, which listens on {address}, the address of this machine's host name. The line"
                f" '127.0.0.1 {socket.gethostname()}' in /etc/hosts restricts it to this machine"
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
            "PYTHONUNBUFFERED": "1",  # do not lose the last output of a killed process
        }
        if self.devices_per_process is not None:
            values[DEVICES] = str(self.devices_per_process)
            values.setdefault("JAX_PLATFORMS", "cpu")
        if self.gpus_per_process is not None:
            first = process * self.gpus_per_process
            values["JAX_LOCAL_DEVICE_IDS"] = ",".join(str(first + i) for i in range(self.gpus_per_process))
        return values


def _without_proxy() -> dict[str, str]:
    """Return environment variables that exclude this machine from gRPC's proxy. JAX's processes connect with gRPC."""
    if not any(os.environ.get(name) for name in ("grpc_proxy", "https_proxy", "http_proxy")):
        return {}
    others = os.environ.get("no_grpc_proxy") or os.environ.get("no_proxy")  # noqa: SIM112 (gRPC's spelling)
    return {"no_grpc_proxy": ",".join(filter(None, (others, "localhost", "127.0.0.1", "::1")))}


def run(command: Sequence[str], local: Local) -> int:
    """Run a command in each process, restart all after a failure up to `local.restarts` times, and return the exit code."""
    received = _Signals()
    with received:
        for attempt in range(local.restarts + 1):
            code = _Attempt(command, local, received).run()
            if code in (DONE, MISTAKE, STOPPED) or received.signals:
                return code
            if attempt < local.restarts:
                _log(f"restarting from the last checkpoint (restart {attempt + 1} of {local.restarts})")
    return code


class _Signals:
    """The received signals, and a pipe that becomes readable with each signal."""

    def __init__(self) -> None:
        self.signals: list[signal.Signals] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
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
    """One start of all processes, until the last one exits."""

    def __init__(self, command: Sequence[str], local: Local, received: _Signals) -> None:
        self._command, self._local, self._received = command, local, received
        self._forwarded = len(received.signals)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended: dict[int, int] = {}  # process -> exit code, in the order of their exits
        self._failed: int | None = None
        self._deadline: float | None = None
        self._selector = selectors.DefaultSelector()

    def run(self) -> int:
        """Start the processes, relay their output and our signals, and return the overall exit code."""
        try:
            self._start()
            while len(self._ended) < len(self._processes):
                self._relay(0.1)
                self._forward_signals()
                self._collect()
                if self._deadline is not None and time.monotonic() > self._deadline:
                    self._signal_all(signal.SIGKILL)
            self._drain()
        finally:
            # Kill all processes and their children, also after an error here.
            for process in self._processes:
                _signal_group(process, signal.SIGKILL)
                process.wait()
            self._selector.close()
        return self._code()

    def _start(self) -> None:
        port = self._local.port or free_port(loopback())
        self._selector.register(self._received.reader, selectors.EVENT_READ, None)
        for index in range(self._local.processes):
            process = subprocess.Popen(
                self._command,
                env=self._local.environment(index, port),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,  # a terminal's Ctrl-C reaches only the launcher, which forwards it once
            )
            self._processes.append(process)
            assert process.stdout is not None
            assert process.stderr is not None
            prefix = f"[{index}] ".encode()
            for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
                os.set_blocking(source.fileno(), False)
                self._selector.register(source, selectors.EVENT_READ, _Lines(prefix, target))

    def _relay(self, timeout: float) -> bool:
        """Print the available output; return whether there was any."""
        events = self._selector.select(timeout)
        for key, _ in events:
            data = os.read(key.fd, 65536)
            if key.data is None:  # a signal, which only ends the wait
                continue
            key.data.add(data)
            if not data:
                self._selector.unregister(key.fileobj)
        return any(key.data is not None for key, _ in events)

    def _drain(self) -> None:
        """Print the rest of the output. Do not wait for end of file, because a child of a process may keep the pipe open."""
        while self._relay(0):
            pass
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                key.data.add(b"")

    def _forward_signals(self) -> None:
        for number in self._received.signals[self._forwarded :]:
            self._forwarded += 1
            if number == signal.SIGINT and self._received.signals.count(signal.SIGINT) > 1:
                _log("interrupted twice: killing all processes")
                self._signal_all(signal.SIGKILL)
            else:
                _log(f"{number.name} forwarded to all processes")
                self._signal_all(number)

    def _collect(self) -> None:
        for index, process in enumerate(self._processes):
            if index in self._ended or process.poll() is None:
                continue
            code = self._ended[index] = process.returncode
            if code in (DONE, STOPPED) or self._failed is not None:
                continue
            self._failed = index
            if code != MISTAKE:  # the processes report a mistake themselves
                _log(
                    f"process {index} of {len(self._processes)} (pid {process.pid}) {_describe(code)}; ending the others"
                )
                self._signal_all(signal.SIGTERM)
            self._deadline = time.monotonic() + GRACE

    def _signal_all(self, number: signal.Signals) -> None:
        for index, process in enumerate(self._processes):
            if index not in self._ended:
                _signal_group(process, number)

    def _code(self) -> int:
        if self._received.signals:
            unsaved = [index for index, code in self._ended.items() if code not in (DONE, STOPPED)]
            if unsaved:
                _log(
                    f"process {unsaved[0]} {_describe(self._ended[unsaved[0]])} before it saved; the last checkpoint is kept"
                )
            return DONE if all(code == DONE for code in self._ended.values()) else STOPPED
        if self._failed is not None:
            code = self._ended[self._failed]
            return code if code > 0 else FAILED
        return STOPPED if STOPPED in self._ended.values() else DONE


_CHATTER = b" peer ranks. Expected number of connected peer ranks is : "
"""Part of a line that Gloo prints to standard output, among the results, for each process group. These lines are dropped."""


class _Lines:
    """Writes whole lines of a process to the launcher's own stream, each with a prefix."""

    def __init__(self, prefix: bytes, target: Any) -> None:
        self._prefix, self._target, self._rest = prefix, target, b""

    def add(self, data: bytes) -> None:
        """Print the lines that `data` completes; with empty `data`, print the rest."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        with suppress(BrokenPipeError):  # nobody reads the output; the processes continue
            for line in lines:
                if _CHATTER in line:
                    continue
                self._target.write((self._prefix + line).decode(errors="replace") + "\n")
            self._target.flush()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS returns EPERM for a group of zombies
        os.killpg(process.pid, number)


def _describe(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = " (out of memory? see the kernel's log)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"


def _log(text: str) -> None:
    print(f"launch: {text}", file=sys.stderr, flush=True)
