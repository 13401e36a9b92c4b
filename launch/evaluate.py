"""`t2t eval RUN [--step N]`."""

from __future__ import annotations

from typing import Annotated

import jax
import tyro

from t2t.api.evaluation import evaluate_run
from t2t.api.progress import number
from t2t.api.user_code.loading import load_run
from t2t.launch.output import console, table
from t2t.limits import CountOrZero, Few, Generated, Length, Rows
from t2t.paths import LocalPath
from t2t.train.evaluation import EvalResult
from t2t.train.few_shot import Calibration
from t2t.train.run import SavedRun

SAMPLES = 3
"""Predictions of each task that are printed."""
WIDEST = 60
"""Characters of a text that are printed."""


def evaluate(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    step: CountOrZero | None = None,
    tasks: tuple[str, ...] | None = None,
    split: str | None = None,
    examples: CountOrZero | None = None,
    batch_size: Rows | None = None,
    shots: CountOrZero | None = None,
    shot_seeds: Few | None = None,
    calibration: tuple[Calibration, ...] | None = None,
    as_text: bool = False,
    stratified: bool = False,
    fewer_shots: bool = False,
    prompt_length: Length | None = None,
    length: Generated | None = None,
) -> None:
    """Evaluate a run's checkpoint: losses, the tasks' metrics, predictions beside targets.

    Prints a table; writes RUN/eval/STEP.json and RUN/eval/STEP/TASK.jsonl, and the report anew. Results on another split than the one
    the run evaluates on while training stand beside those, as TASK@SPLIT, and those with examples in the prompt as TASK@4-shot. Of several seeds, means and standard
    deviations are shown.

    Args:
        run: the run's directory.
        step: which checkpoint; the newest by default.
        tasks: names of tasks or mixtures; those of the run by default.
        split: validation by default, or what the run evaluates on.
        examples: first examples of each task; as the run's by default, 0 for all.
        batch_size: rows computed at a time.
        shots: examples of the task's train split to show before each query; as the run's by default, else 0.
        shot_seeds: times that they are drawn.
        calibration: further scores of choices: a token's mean, or less what the choice has without the query.
        as_text: no EOS but a line's end before the answer, for a decoder that was trained on text alone.
        stratified: show as many examples of each answer as can be.
        fewer_shots: leave out examples where a prompt is too long.
        prompt_length: tokens a prompt may have; the run's inputs length by default.
        length: tokens of an example, in place of the training's lengths: of a decoder's row, inputs included; of an encoder's text; of an encoder-decoder's
            inputs and of its targets each.
    """
    loaded = load_run(run, step)
    results = evaluate_run(
        loaded,
        tasks=tasks,
        split=split,
        examples=examples,
        batch_size=batch_size,
        shots=shots,
        shot_seeds=shot_seeds,
        calibration=calibration,
        as_text=as_text,
        stratified=stratified,
        fewer_shots=fewer_shots,
        prompt_length=prompt_length,
        length=length,
    )
    if jax.process_index() == 0:
        _show(loaded, results)


def _show(run: SavedRun, results: list[EvalResult]) -> None:
    out = console()
    shown = table(out, "task", "split", "examples", "metrics", right=("examples",))
    for result in results:
        metrics = "  ".join(
            f"{name} {number(value)}" + (f" ± {number(result.spread[name])}" if name in result.spread else "")
            for name, value in result.metrics.items()
        )
        if result.unanswered:
            metrics = f"{metrics}  without a known answer {result.unanswered:,}".strip()
        shown.add_row(result.task, result.split, f"{result.examples:,}", metrics)
    out.print(f"{run.directory}, step {run.step:,}")
    out.print(shown)
    samples = table(out, "task", "", "inputs", "target", "prediction")
    for result in results:
        for row in result.predictions[:SAMPLES]:
            mark = {True: "right", False: "wrong"}.get(bool(row["correct"])) if "correct" in row else ""
            samples.add_row(
                result.task, mark, *(_short(row.get(name, "")) for name in ("inputs", "targets", "prediction"))
            )
    if samples.row_count:
        out.print()
        out.print(samples)


def _short(text: object) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= WIDEST else line[: WIDEST - 3] + "..."
