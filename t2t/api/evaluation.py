"""Evaluate a run's checkpoint on tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from t2t.api.quiet import register_tasks
from t2t.api.user_code.loading import check_tasks
from t2t.data.config import Data
from t2t.decode import Decoding, Sampling
from t2t.distributed.preflight import preflight
from t2t.errors import UserError
from t2t.train.evaluation import EvalResult, Evaluator, write
from t2t.train.few_shot import Calibration
from t2t.train.run import SavedRun
from t2t.types import Params


def evaluate_run(
    run: SavedRun,
    *,
    params: Params | None = None,
    tasks: Sequence[str] | None = None,
    split: str | None = None,
    examples: int | None = None,
    batch_size: int | None = None,
    shots: int | None = None,
    shot_seeds: int | None = None,
    calibration: Sequence[Calibration] | None = None,
    as_text: bool = False,
    stratified: bool = False,
    fewer_shots: bool = False,
    prompt_length: int | None = None,
    length: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
) -> list[EvalResult]:
    """Evaluate a run on tasks and return one result for each task. Updates RUN/eval; the report takes longer, see `write_report`. Call it on all processes.

    The options are those of `t2t eval`. None keeps the value of the run's own evaluation. The name of a result is TASK@SPLIT on a split other than
    the run's own, TASK@4-shot with examples in the prompt, TASK@8-samples with several samples of each answer, TASK@plain-weights if the run's own weights are a running mean, and TASK@int8 if kernels are quantized when
    they are read.

    params: the run's parameters. By default, they are read from the checkpoint.
    Raises UserError for an unknown task or split, or for a length that the model does not support.
    """
    register_tasks()
    own = run.experiment.evaluation
    shown = own.few_shot
    few_shot = replace(
        shown,
        shots=shown.shots if shots is None else shots,
        seeds=shown.seeds if shot_seeds is None else shot_seeds,
        calibration=shown.calibration if calibration is None else tuple(calibration),
        as_text=as_text or shown.as_text,
        stratified=stratified or shown.stratified,
        fewer=fewer_shots or shown.fewer,
        length=shown.length if prompt_length is None else prompt_length,
    )
    sampled = {"samples": samples, "temperature": temperature, "top_p": top_p}
    given: dict[str, Any] = {name: value for name, value in sampled.items() if value is not None}
    decoding: Decoding = own.decoding
    if given:
        decoding = replace(own.decoding if isinstance(own.decoding, Sampling) else Sampling(), **given)
    evaluation = replace(
        own,
        tasks=own.tasks if tasks is None else tuple(tasks),
        split=split or own.split or "validation",
        examples=own.examples if examples is None else examples,
        batch_size=own.batch_size if batch_size is None else batch_size,
        few_shot=few_shot,
        decoding=decoding,
    )
    # Use the vocabulary of the training, even if the tasks are now registered with another one.
    data = replace(run.experiment.resolved_data(), vocabulary=run.vocabulary)
    if length is not None:
        data = _of_length(data, run, length)
    check_tasks(evaluation.tasks or (data.task,), run.directory)
    preflight(run.record, run.directory)
    results = Evaluator(run.model, evaluation, data, run.experiment.objective).evaluate(
        run.params() if params is None else params
    )
    other = [evaluation.split] if evaluation.split != own.split else []
    other += ["plain-weights"] if run.plain_weights and run.experiment.ema.decay is not None else []
    other += [run.quantize] if run.quantize != "none" else []
    other += [few_shot.label or "0-shot"] if few_shot.label != shown.label else []
    if isinstance(decoding, Sampling) and decoding != own.decoding:
        other += [f"{decoding.samples}-samples"]
    results = [replace(result, task="@".join([result.task, *map(str, other)])) for result in results]
    write(run.directory, run.step, results)
    return results


def _of_length(data: Data, run: SavedRun, length: int) -> Data:
    """Return the data with examples of `length` tokens. Raises UserError if the model does not support this length."""
    model = run.experiment.model
    limit, minimum = model.max_length, 2 if model.can("continue_text") else 1
    if length < minimum or (limit is not None and length > limit):
        has = f"the minimum is {minimum}" if length < minimum else f"{run.directory} has {limit} learned positions"
        raise UserError(f"--length {length}: {has}. Nearest: {minimum if length < minimum else limit}.")
    if not model.can("continue_text"):
        return replace(data, inputs_length=length, targets_length=length)
    # Inputs and targets share the row. A text without inputs may use all of it.
    targets = min(data.targets_length, length - 1)
    return replace(data, inputs_length=length - targets, targets_length=targets)
