"""What an evaluation found: of one task, over several seeds, and written under RUN/eval."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t2t.json_files import expect, read_json


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """One task's evaluation.

    examples:    how many were evaluated.
    unanswered:  how many of them have no known answer (a hidden label, or nothing to predict): they are predicted, and no metric is of them.
    trimmed:     how many of them were longer than the data's lengths and lost their end.
    metrics:     "loss" (nats a target token), "perplexity" (its exponential), "token_accuracy" (of teacher-forced predictions; an encoder's
                 masked accuracy), "unigram_loss" (what no model that ignores the context can be below), "bits_per_byte" of a language model's texts, encoders: "exact_match" (rows with every wanted token right); "rank_accuracy" where examples
                 offer choices, and one more for each calibration; "shots", the examples that fitted into a prompt, where some were to be shown; and what the task's metric
                 functions return, which wins where names are equal. Means over the seeds.
    spread:      standard deviation of each metric over the seeds (of a sample: divided by one less than their number); empty for one alone.
    seeds:       how often examples to show were drawn.
    predictions: for each example that one was made for {"inputs", "targets", "prediction", "correct", ...}; with several seeds each has its "seed".
    """

    task: str
    split: str
    examples: int
    unanswered: int = 0
    trimmed: int = 0
    metrics: dict[str, float]
    spread: dict[str, float] = field(default_factory=dict)
    seeds: int = 1
    predictions: list[dict[str, Any]] = field(default_factory=list)


def merged(results: Sequence[EvalResult]) -> EvalResult:
    """Return the results of one task under several seeds as one."""
    if len(results) == 1:
        return results[0]
    values = {name: np.array([result.metrics[name] for result in results]) for name in results[0].metrics}
    with np.errstate(invalid="ignore"):  # infinite perplexities have no deviation
        spread = {name: float(column.std(ddof=1)) for name, column in values.items()}
    return replace(
        results[0],
        trimmed=max(result.trimmed for result in results),
        metrics={name: float(column.mean()) for name, column in values.items()},
        spread=spread,
        seeds=len(results),
        predictions=[row for result in results for row in result.predictions],
    )


def summary(results: Sequence[EvalResult]) -> dict[str, float]:
    """Return "eval/TASK/METRIC" for each, and "eval/loss", the mean of the tasks' losses, to choose the best checkpoint by."""
    values = {f"eval/{result.task}/{name}": value for result in results for name, value in result.metrics.items()}
    losses = [result.metrics["loss"] for result in results if "loss" in result.metrics]
    return {**values, "eval/loss": sum(losses) / len(losses)} if losses else values


def write(directory: Path, step: int, results: Sequence[EvalResult]) -> None:
    """Write RUN/eval/STEP/TASK.jsonl, a line a prediction, and then RUN/eval/STEP.json, which is there only when all is.

    Results of other tasks that an earlier evaluation of the same step wrote there stay. Numbers that JSON has no word for are written as
    "nan", "inf" and "-inf".
    """
    if jax.process_index() != 0:
        return
    folder = directory / "eval" / str(step)
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        path = folder / f"{result.task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in result.predictions]
        path.write_text("".join(lines), encoding="utf-8")
    whole = directory / "eval" / f"{step}.json"
    earlier = expect(read_json(whole).get("tasks"), dict, f"{whole}: tasks") if whole.exists() else {}
    record = {
        "step": step,
        "tasks": earlier
        | {
            result.task: {
                "split": result.split,
                "examples": result.examples,
                **({"unanswered": result.unanswered} if result.unanswered else {}),
                "trimmed": result.trimmed,
                "metrics": _plain(result.metrics),
                **({"seeds": result.seeds, "spread": _plain(result.spread)} if result.spread else {}),
            }
            for result in results
        },
    }
    partial = directory / "eval" / f"{step}.json.partial"
    partial.write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(whole)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
