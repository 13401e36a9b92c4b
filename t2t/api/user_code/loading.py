"""Reading a run that may have been trained with code of its owner's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from t2t.api.user_code import run_code
from t2t.paths import check
from t2t.train.run import RECORD, SavedRun


def load_run(directory: str, step: int | None = None) -> SavedRun:
    """Return a run. Its owner's code is run only where the user trusts or knows it, and asked for only where the configuration has classes of it.

    Raises UserError where there is no such run, or it needs code that is neither trusted, known nor imported.
    """
    run_code.ready(check(directory, "RUN"))
    return SavedRun.load(directory, step)


def check_tasks(names: Iterable[str], directory: Path) -> None:
    """Run the owner's code of a run for tasks that it registers, where the user knows it; refuse such tasks where it is neither known nor imported. Tasks must be registered by now.

    A task that nobody has registered is left to who reads it. Raises UserError.
    """
    from t2t.data import registry

    known = registry.names()
    missing = [name for name in names if name not in known]
    if missing and (directory / RECORD).is_file():
        found = run_code.needs(directory)
        if found.missing:
            run_code.provide(found, f"for the task {missing[0]!r}")
