"""Hold back the messages of Orbax and TensorStore. They are shown after success; after a failure, one line of ours gives the reason instead."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
from collections.abc import Iterator
from types import TracebackType


class Held(logging.Filter):
    """A filter that holds back log records."""

    def __init__(self) -> None:
        super().__init__()
        self._records: list[logging.LogRecord] = []

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a record and do not pass it on."""
        self._records.append(record)
        return False

    @property
    def texts(self) -> list[str]:
        """The messages of the records."""
        return [record.getMessage() for record in self._records]

    def show(self) -> None:
        """Log all records now."""
        for record in self._records:
            logging.getLogger(record.name).handle(record)


@contextlib.contextmanager
def held_back(*, show: bool = True) -> Iterator[Held]:
    """Hold back what Orbax logs inside the context. Show it at the end if `show`; drop it after an exception."""
    drop_late_errors()
    held, logger = Held(), logging.getLogger("absl")
    logger.addFilter(held)
    try:
        yield held
    finally:
        logger.removeFilter(held)
    if show:
        held.show()


@functools.cache
def drop_late_errors() -> None:
    """Drop, from now on, the errors that other reads or writes of a tree print after one has failed. They end later, in any thread.

    The errors are recognised by a closed event loop, a coroutine or thread of Orbax, or a task of TensorStore.
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
        if not type(args.thread).__module__.startswith("orbax."):  # the caller that waits for Orbax gets its errors
            threads(args)

    def not_awaited(record: logging.LogRecord) -> bool:
        return "_wrap_awaitable" not in record.getMessage()

    sys.excepthook, sys.unraisablehook, threading.excepthook = excepthook, unraisablehook, of_thread
    logging.getLogger("asyncio").addFilter(not_awaited)
