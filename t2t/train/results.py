"""The results of an evaluation: merge them over seeds, summarise them, and write them to RUN/eval."""

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
    """The evaluation of one task.

    examples:    number of evaluated examples.
    unanswered:  number of examples without a known answer (a hidden label, or nothing to predict). They have predictions but no metrics.
    trimmed:     number of examples that were longer than the data's lengths and were truncated.
    metrics:     means over the seeds:
                 "loss" in nats per target token;
                 "perplexity", the exponential of the loss;
                 "token_accuracy" of teacher-forced predictions (of an encoder: masked accuracy);
                 "unigram_loss", the lowest possible loss of a model that ignores the context;
                 "bits_per_byte" of the texts of a language model;
                 "exact_match" of an encoder: rows whose target tokens are all correct;
                 "rank_accuracy" if examples have choices, and one more for each calibration;
                 "retrieval_accuracy" and "mrr" of vectors of texts, see `t2t.tasks.add_retrieval`;
                 "shots", the mean number of examples in a prompt, in few-shot evaluation;
                 and the results of the task's metric functions, which replace metrics of the same name.
    spread:      sample standard deviation of each metric over the seeds (divided by n - 1); empty for one seed.
    seeds:       number of times that the examples to show were drawn.
    predictions: {"inputs", "targets", "prediction", "correct", ...} for each predicted example; few-shot predictions have a "seed".
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
    """Return the results of one task over several seeds as one result."""
    if len(results) == 1:
        return results[0]
    values = {name: np.array([result.metrics[name] for result in results]) for name in results[0].metrics}
    with np.errstate(invalid="ignore"):  # infinite perplexities have no standard deviation
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
    """Return "eval/TASK/METRIC" for each metric, and "eval/loss", the mean loss of the tasks, which selects the best checkpoint."""
    values = {f"eval/{result.task}/{name}": value for result in results for name, value in result.metrics.items()}
    losses = [result.metrics["loss"] for result in results if "loss" in result.metrics]
    return {**values, "eval/loss": sum(losses) / len(losses)} if losses else values


def write(directory: Path, step: int, results: Sequence[EvalResult]) -> None:
    """Write RUN/eval/STEP/TASK.jsonl with one line per prediction, and last RUN/eval/STEP.json, which exists only if the rest is complete.

    Results of other tasks from an earlier evaluation of the same step are kept. Numbers that are not finite are written as the strings
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
