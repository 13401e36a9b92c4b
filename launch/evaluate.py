"""`t2t eval RUN [--step N]`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import jax
import tyro

from t2t.distributed.preflight import preflight
from t2t.launch.loading import load_run
from t2t.launch.output import console, table
from t2t.launch.progress import number
from t2t.launch.quiet import register_tasks
from t2t.launch.report import write_report
from t2t.train.evaluation import EvalResult, Evaluator, write
from t2t.train.run import Run

SAMPLES = 3
"""Predictions of each task that are printed."""
WIDEST = 60
"""Characters of a text that are printed."""


def evaluate(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    step: int | None = None,
    tasks: tuple[str, ...] | None = None,
    split: str | None = None,
    examples: int | None = None,
    batch_size: int | None = None,
) -> None:
    """Evaluate a run's checkpoint: losses, the tasks' metrics, predictions beside targets.

    Prints a table; writes RUN/eval/STEP.json and RUN/eval/STEP/TASK.jsonl, and the report anew. Results on another split than the one
    the run evaluates on while training stand beside those, as TASK@SPLIT.

    Args:
        run: the run's directory.
        step: which checkpoint; the newest by default.
        tasks: names of tasks or mixtures; those of the run by default.
        split: validation by default, or what the run evaluates on.
        examples: first examples of each task; as the run's by default, 0 for all.
        batch_size: rows computed at a time.
    """
    loaded = load_run(run, step)
    register_tasks()
    preflight(loaded.record, loaded.directory)

    own = loaded.experiment.evaluation
    evaluation = replace(
        own,
        tasks=own.tasks if tasks is None else tasks,
        split=split or own.split or "validation",
        examples=own.examples if examples is None else examples or None,
        batch_size=own.batch_size if batch_size is None else batch_size,
    )
    data = loaded.experiment.resolved_data()
    results = Evaluator(loaded.model, evaluation, data).evaluate(loaded.params())
    if evaluation.split != own.split:
        results = [replace(result, task=f"{result.task}@{evaluation.split}") for result in results]
    write(loaded.directory, loaded.step, results)
    if jax.process_index() == 0:
        _show(loaded, results)
        write_report(loaded.directory)


def _show(run: Run, results: list[EvalResult]) -> None:
    out = console()
    shown = table(out, "task", "split", "examples", "metrics", right=("examples",))
    for result in results:
        metrics = "  ".join(f"{name} {number(value)}" for name, value in result.metrics.items())
        shown.add_row(result.task, result.split, f"{result.examples:,}", metrics)
    out.print(f"{run.directory}, step {run.step:,}")
    out.print(shown)
    samples = table(out, "task", "", "inputs", "target", "prediction")
    for result in results:
        for row in result.predictions[:SAMPLES]:
            mark = {True: "right", False: "wrong"}.get(bool(row["correct"])) if "correct" in row else ""
            samples.add_row(result.task, mark, *(_short(row.get(name)) for name in ("inputs", "targets", "prediction")))
    if samples.row_count:
        out.print()
        out.print(samples)


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= WIDEST else line[: WIDEST - 3] + "..."
