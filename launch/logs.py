"""Logging of commands: t2t's messages as plain lines, and other messages except those of some libraries."""

from __future__ import annotations

import logging

from t2t.api.escapes import visible

LIBRARIES = {"absl", "asyncio", "orbax", "etils", "tensorflow", "tensorstore", "apache_beam"}
"""Loggers that are shown only with --debug. We report their errors ourselves: for a failed write, we print one line and they print hundreds."""


def configure(*, debug: bool) -> None:
    """Log to standard error. debug: show the messages of all libraries."""
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
