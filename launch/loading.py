"""Reading a run that was trained with the user's own code."""

from __future__ import annotations

from pathlib import Path

from t2t.json_files import expect, read_json
from t2t.launch.imports import use
from t2t.train.run import RECORD, Run


def load_run(directory: str, step: int | None = None) -> Run:
    """Return a run after importing what it was trained with: its configuration may be made of the user's own classes."""
    record = Path(directory) / RECORD
    if record.is_file():
        named = expect(read_json(record).get("imports", []), list, f"{record}: imports")
        use([expect(name, str, f"{record}: imports") for name in named])
    return Run.load(directory, step)
