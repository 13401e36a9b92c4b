"""Stop on request: after a signal to any process, all processes stop after the same step. Loads JAX only if training has loaded it."""

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
"""SLURM sends SIGUSR1 before the time limit of a job, schedulers send SIGTERM before a preemption, a closed terminal sends SIGHUP."""
_TWICE = 0.5
"""Within this many seconds, a second signal counts as the first one, delivered twice: by a launcher and by its cluster."""


def handle(handler: Callable[[int, FrameType | None], None], *, but: Collection[int] = ()) -> dict[int, Any]:
    """Set a handler for `SIGNALS` except `but`. Return the previous handlers. Outside of the main thread, Python allows no handlers: return {}."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    # `nohup` ignores SIGHUP, to continue without its terminal.
    ignored = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []
    return {number: signal.signal(number, handler) for number in SIGNALS if number not in (*ignored, *but)}


class _Handlers:
    """While open, handles all signals except those in `leaves`."""

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
    """While open, signals request a stop instead of ending the process. A second SIGINT ends the process at once.

    With several processes, the request is JAX's preemption notice, which SIGTERM triggers. JAX's coordinator informs the other processes, and all
    agree on a step that none has passed. Other signals are converted to SIGTERM.

    holding: whether there is something to save. If not, a program with an open `EndOnSignal` ends at once.
    """

    def __init__(self) -> None:
        super().__init__()
        import jax

        self.signal: signal.Signals | None = None
        self.holding = False
        self._several = jax.process_count() > 1
        self.leaves = (signal.SIGTERM,) if self._several else ()  # JAX handles it
        self._asked = False
        self._agreed = False
        self._moments = 0

    @property
    def asked(self) -> bool:
        """Whether this process knows of a stop request."""
        return self.signal is not None or self._asked or self._agreed

    def ask(self) -> None:
        """Request a stop without a signal, for example from a callback."""
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
        """Return whether to stop. Call this before each step, equally often on all processes. All get the same answer."""
        if not self._several:
            return self.asked
        if not self._agreed:
            from jax.experimental import multihost_utils

            self._moments += 1
            self._agreed = multihost_utils.reached_preemption_sync_point(self._moments)
        return self._agreed


class EndOnSignal(_Handlers):
    """While open, a signal ends this program at once with `code`, unless there is something to save. A second signal of the same kind always ends it.

    Use it for the whole time of a program. A thread handles the signals: at startup, a program is in compiled code for long, where Python runs no
    handlers. If an open `StopOnSignal` holds something, or if other code sets a handler, this class leaves the signal to it. With several connected
    processes, it triggers JAX's preemption notice, so that all processes stop together.
    """

    opened = False

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code
        self._first_times: dict[int, float] = {}

    @staticmethod
    def keep() -> None:
        """Block signals until an `EndOnSignal` is opened, also across an exec of another program."""
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
        """Do nothing: the thread handles the signal."""

    def _watch(self) -> None:
        while numbers := self._reader.recv(64):
            for number in numbers:
                self._arrived(number)

    def _arrived(self, number: int) -> None:
        owner = getattr(signal.getsignal(number), "__self__", None)
        if not isinstance(owner, _Handlers):
            return
        now, first = time.monotonic(), self._first_times.get(number)
        if first is None:
            self._first_times[number] = now
        elif number == signal.SIGINT or now - first > _TWICE:
            _end(128 + number, f"second {signal.Signals(number).name}: ended without saving")
        if isinstance(owner, StopOnSignal) and (owner.holding or several()):
            return
        if several():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            _end(self._code, f"stopped by {signal.Signals(number).name} with nothing to save; the same command resumes")


def _end(code: int, line: str) -> None:
    """End the process now, without cleanup: the main thread may be anywhere."""
    with contextlib.suppress(OSError):  # standard error may be closed
        os.write(2, f"{line}\n".encode())
    os._exit(code)
