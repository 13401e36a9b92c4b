"""What Orbax and TensorStore print while they read and write: shown where it ends well; where it fails, one line of ours says why."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Iterator
from types import TracebackType


class Held(logging.Filter):
    """Holds log records back."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record, and let it not pass."""
        self._records.append(record)
        return False

    @property
    def texts(self) -> list[str]:
        """What the records say."""
        return [record.getMessage() for record in self._records]

    def show(self) -> None:
        """Log all of them now."""
        for record in self._records:
            logging.getLogger(record.name).handle(record)


@contextlib.contextmanager
def held_back(*, show: bool = True) -> Iterator[Held]:
    """Hold back what Orbax logs inside; where `show`, it is shown at the end. It is dropped where an exception leaves."""
    drop_what_comes_late()
    held, logger = Held(), logging.getLogger("absl")
    logger.addFilter(held)
    try:
        yield held
    finally:
        logger.removeFilter(held)
    if show:
        held.show()


@functools.cache
def drop_what_comes_late() -> None:
    """Drop, from now on, what the other parts of a tree print when one has failed: they end at some later time, in any thread, and nobody awaits them.

    Each is told by what only they are: an event loop that is closed, a coroutine of Orbax, a task whose error TensorStore made.
    """
    exceptions, unraisables, threads = sys.excepthook, sys.unraisablehook, threading.excepthook

    def of_a_closed_loop(error: BaseException | None) -> bool:
        return isinstance(error, RuntimeError) and "Event loop is closed" in str(error)

    def excepthook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not of_a_closed_loop(error):
            exceptions(kind, error, trace)

    def unraisablehook(found: sys.UnraisableHookArgs) -> None:
        code = getattr(found.object, "cr_code", None)
        if not of_a_closed_loop(found.exc_value) and (code is None or "orbax" not in code.co_filename):
            unraisables(found)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if not type(args.thread).__module__.startswith("orbax."):  # whoever waits for theirs is told
            threads(args)

    def not_awaited(record: logging.LogRecord) -> bool:
        return "_wrap_awaitable" not in record.getMessage()

    sys.excepthook, sys.unraisablehook, threading.excepthook = excepthook, unraisablehook, of_thread
    logging.getLogger("asyncio").addFilter(not_awaited)
