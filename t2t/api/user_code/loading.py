"""Load a run that may have been trained with user code."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from t2t.api.user_code import run_code
from t2t.nn.weights import Quantize
from t2t.paths import check
from t2t.train.run import RECORD, SavedRun


def load_run(
    directory: str, step: int | None = None, *, plain_weights: bool = False, quantize: Quantize = "none"
) -> SavedRun:
    """Return a run. Run its code only if the user trusts or knows it.

    quantize: see `SavedRun`.
    Raises UserError if the run does not exist, if its kernels are quantized in another format, or if its configuration needs code that is not trusted, known or imported.
    """
    run_code.ready(check(directory, "RUN"))
    return SavedRun.load(directory, step, plain_weights=plain_weights, quantize=quantize)


def check_tasks(names: Iterable[str], directory: Path) -> None:
    """Run the code of a run if a task is not registered. Register the built-in tasks before this call.

    Raises UserError if this code is neither known nor imported. An unknown task of a run without code is not an error here; reading it is.
    """
    from t2t.data import registry

    known = registry.names()
    missing = [name for name in names if name not in known]
    if missing and (directory / RECORD).is_file():
        found = run_code.needs(directory)
        if found.missing:
            run_code.run_if_known(found, f"for the task {missing[0]!r}")
