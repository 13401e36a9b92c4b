"""Reading a run that was trained with the user's own code."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from t2t.launch.imports import use
from t2t.train.run import RECORD, Run


def load_run(directory: str, step: int | None = None) -> Run:
    """Return a run after importing what it was trained with: its configuration may be made of the user's own classes."""
    record = Path(directory) / RECORD
    if record.is_file():
        with contextlib.suppress(ValueError, AttributeError, TypeError):  # Run.load says what is wrong with the file
            use(json.loads(record.read_text(encoding="utf-8")).get("imports", ()))
    return Run.load(directory, step)
