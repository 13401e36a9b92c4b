"""`t2t eval RUN [--step N]`."""

from __future__ import annotations

from typing import Annotated

import jax
import tyro

from t2t.api.evaluation import evaluate_run
from t2t.api.progress import number
from t2t.api.report import write_report
from t2t.api.user_code.loading import load_run
from t2t.decode.config import Samples, Temperature, TopP
from t2t.launch.output import console, table
from t2t.limits import CountOrZero, Few, Generated, Length, Rows
from t2t.nn.weights import Quantize
from t2t.paths import LocalPath
from t2t.train.evaluation import EvalResult
from t2t.train.few_shot import Calibration
from t2t.train.run import SavedRun

SAMPLES = 3
"""Number of predictions of each task to print."""
WIDEST = 60
"""Maximum characters of a printed text."""


def evaluate(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    step: CountOrZero | None = None,
    plain_weights: bool = False,
    quantize: Quantize = "none",
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
    samples: Samples | None = None,
    temperature: Temperature | None = None,
    top_p: TopP | None = None,
) -> None:
    """Evaluate a run's checkpoint: losses, the tasks' metrics, and predictions next to targets.

    Prints a table. Writes RUN/eval/STEP.json, RUN/eval/STEP/TASK.jsonl and the report. If the split is not the one that the run evaluates on during
    training, the results are named TASK@SPLIT; results with examples in the prompt are named TASK@4-shot. If there are several seeds, the table shows
    means and standard deviations.

    Args:
        run: the run's directory.
        step: checkpoint to load. Default: the newest.
        plain_weights: use the trained parameters of a run with a running mean (--ema.decay), instead of the mean.
        quantize: store the kernels of linear layers in this format while the model is in memory, for less memory; see docs/quantization.md.
        tasks: names of tasks or mixtures. Default: the run's evaluation tasks.
        split: split to evaluate on. Default: the run's evaluation split, or validation.
        examples: number of examples of each task, from the first on; 0 for all. Default: as in the run.
        batch_size: rows per batch. Default: as in the run.
        shots: examples from the task's train split to put before each query. Default: as in the run, or 0.
        shot_seeds: how many times to draw these examples. Default: as in the run.
        calibration: further scores of the choices: length (mean per token), unconditional (minus the score without the query), contextual (minus
            the score with an empty query).
        as_text: put a line break instead of EOS before the answer, for decoders that were trained on plain text only.
        stratified: show examples with different answers equally often, as far as possible.
        fewer_shots: show fewer examples if a prompt is too long.
        prompt_length: maximum tokens of a prompt. Default: the run's inputs length.
        length: tokens of an example, instead of the lengths of training. Decoder: of a row, inputs included. Encoder: of the text.
            Encoder-decoder: of the inputs and of the targets each.
        samples: answers to sample for each query, for pass@k and the majority vote (docs/evaluation.md). Default: the run's own decoding.
        temperature: sampling temperature. Default: 1. One answer is sampled without --samples.
        top_p: sample from the smallest set of most likely tokens with this total probability. Default: 1.
    """
    loaded = load_run(run, step, plain_weights=plain_weights, quantize=quantize)
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
        samples=samples,
        temperature=temperature,
        top_p=top_p,
    )
    if jax.process_index() == 0:
        _show(loaded, results)
        write_report(loaded.directory)


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
