"""What of the log reaches whoever runs a command: our own messages, as plain lines, and what is not a library's own affair."""

from __future__ import annotations

import logging

from t2t.api.escapes import visible

LIBRARIES = {"absl", "asyncio", "orbax", "etils", "tensorflow", "tensorstore", "apache_beam"}
"""Loggers of what is told elsewhere, or of nobody's concern: a failed write, which ends a run in one line, is hundreds of theirs."""


def begin(*, debug: bool) -> None:
    """Show messages on standard error. debug: libraries' too."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    if not debug:
        handler.addFilter(lambda record: record.name.partition(".")[0] not in LIBRARIES)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        own = record.name.partition(".")[0] == "t2t"
        self._style._fmt = "%(message)s" if own else "%(levelname)s %(name)s: %(message)s"
        return visible(super().format(record))
