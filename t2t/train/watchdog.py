"""A limit on the time of a step: a collective that another process never joins would block forever."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from types import TracebackType

STANDARD_ERROR = 2
"""File descriptor of standard error: `sys.stderr` may be replaced by a buffer."""
_GRACE = 10.0
"""Additional seconds after which faulthandler's timer ends the process if Python itself cannot run."""


class Watchdog:
    """While open, ends the process with code 1, and prints the stacks of all threads, if `tick` is not called for `seconds`.

    seconds: 0 is unlimited.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._doing = "starting"
        self._last = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self.tick(self._doing)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._seconds:
            self._ended.set()
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()

    def tick(self, doing: str) -> None:
        """Restart the timer. doing: name of the next activity, for the message."""
        self._doing, self._last = doing, time.monotonic()
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds + _GRACE, exit=True, file=STANDARD_ERROR)

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._last > self._seconds:
                print(
                    f"error: {self._doing} took longer than {self._seconds:g} s (--guard.step-seconds); the stacks of all threads:",
                    file=sys.__stderr__,
                    flush=True,
                )
                faulthandler.dump_traceback(file=STANDARD_ERROR, all_threads=True)
                os._exit(1)
