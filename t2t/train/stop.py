"""Stopping on request: a signal to any process, and all stop after the same step. Loads JAX only where training has."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection
from types import FrameType, TracebackType
from typing import Any, Self

from t2t.distributed.end import several

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""SLURM announces the end of a job's time by SIGUSR1, schedulers a preemption by SIGTERM, a terminal that is closed sends SIGHUP."""
_TWICE = 0.5
"""Seconds within which a second signal is the first one, delivered twice: by a launcher and by its cluster."""


def handle(handler: Callable[[int, FrameType | None], None], *, but: Collection[int] = ()) -> dict[int, Any]:
    """Set a handler for the signals but some, in the main thread: elsewhere none may be set. Returns those that they had."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    ignored = (
        [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []
    )  # `nohup` goes on without its terminal
    return {number: signal.signal(number, handler) for number in SIGNALS if number not in (*ignored, *but)}


class _Handlers:
    """While open, the signals have a handler of this object's, but those it leaves alone."""

    leaves: Collection[int] = ()

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = handle(self._handle, but=self.leaves)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise NotImplementedError


class StopOnSignal(_Handlers):
    """While open, the signals ask for a stop instead of ending the process; a second SIGINT ends it at once.

    With several processes the request is JAX's preemption notice, which SIGTERM gives: the others are told through the coordinator, and all
    agree on a moment that none has passed. The other signals are turned into it.

    holding: whether there is something to save. Until then, a program that opened `EndOnSignal` ends at once.
    """

    def __init__(self) -> None:
        super().__init__()
        import jax

        self.signal: signal.Signals | None = None
        self.holding = False
        self._several = jax.process_count() > 1
        self.leaves = (signal.SIGTERM,) if self._several else ()  # it is JAX's own
        self._asked = False
        self._agreed = False
        self._moments = 0

    @property
    def asked(self) -> bool:
        """Whether this process knows of a request."""
        return self.signal is not None or self._asked or self._agreed

    def ask(self) -> None:
        """Ask for a stop without a signal from outside: code of the user's does."""
        self._asked = True
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT and not EndOnSignal.opened:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)

    def now(self) -> bool:
        """Return whether to stop; to be asked before each step. All processes must ask equally often, and get the same answer."""
        if not self._several:
            return self.asked
        if not self._agreed:
            from jax.experimental import multihost_utils

            self._moments += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._moments)
        return self._agreed


class EndOnSignal(_Handlers):
    """While open, a signal ends this program with `code` at once, unless there is something to save; a second one of a kind ends it in any case.

    For a program's whole time. A thread does it, since a program that starts is for long in compiled code, where Python runs no handlers. Where a
    `StopOnSignal` holds something, the signal is its own matter, as it is that of whoever else sets a handler. One of several processes that have
    found each other gives JAX's preemption notice, so that all stop together.
    """

    opened = False

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code
        self._came: dict[int, float] = {}

    @staticmethod
    def keep() -> None:
        """Keep signals that come, until one is opened: also over the start of another program in this one's place."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        super().__enter__()
        self._thread = threading.Thread(target=self._watch, name="signals", daemon=True)
        self._thread.start()
        EndOnSignal.opened = True
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        super().__exit__(*error)
        EndOnSignal.opened = False
        signal.set_wakeup_fd(self._before)
        self._writer.close()  # the thread reads to the end
        self._thread.join()
        self._reader.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Do nothing here: the thread does."""

    def _watch(self) -> None:
        while numbers := self._reader.recv(64):
            for number in numbers:
                self._arrived(number)

    def _arrived(self, number: int) -> None:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if not isinstance(owner, _Handlers):
            return
        now, first = time.monotonic(), self._came.get(number)
        if first is None:
            self._came[number] = now
        elif number == signal.SIGINT or now - first > _TWICE:
            _end(128 + number, f"{signal.Signals(number).name} a second time: ended without saving")
        if isinstance(owner, StopOnSignal) and (owner.holding or several()):
            return
        if several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            _end(self._code, f"stopped by {signal.Signals(number).name} with nothing to save; the same command goes on")


def _end(code: int, line: str) -> None:
    """End the process now. Not the usual way: the main thread may be anywhere."""
    with contextlib.suppress(OSError):  # nobody reads
        os.write(2, f"{line}\n".encode())
    os._exit(code)
