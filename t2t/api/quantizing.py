"""Make a run of a model whose kernels are quantized and calibrated on a task."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from t2t.api.merging import write_copy
from t2t.api.quiet import register_tasks
from t2t.api.user_code.loading import check_tasks
from t2t.errors import UserError, nearest
from t2t.models.calibration import Errors
from t2t.models.functional import FunctionalModel
from t2t.nn.weights import Quantize, checked_format
from t2t.nn.weights.gptq import CALIBRATED
from t2t.optim import Ema, Trainable
from t2t.paths import check_new_run
from t2t.train.experiment import Experiment, StartFrom
from t2t.train.run import SavedRun
from t2t.types import Batch, Params

Order = Literal["inputs", "squares"]
"""The order in which the inputs of a linear layer are rounded."""

OPTIONS = ("format", "rows", "split", "order")


def quantize_run(
    run: SavedRun,
    directory: str,
    *,
    task: str,
    format: str = "int4_groups",
    rows: int = 128,
    split: str = "train",
    order: Order = "inputs",
    params: Params | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Write a new run, at step 0, of the model with quantized kernels that are calibrated on a task (GPTQ, `t2t.models.calibration`). Return its directory.

    It infers, evaluates and exports like any other run with quantized kernels. An adapter is merged into the kernels before.

    rows: number of rows of the task, arranged as in the run's training.
    params: the parameters of `run`. By default, they are read from the checkpoint.
    say: receives log lines.
    Raises UserError if the format cannot be calibrated, if the model cannot have quantized kernels or has them already, if the task does not exist or does not fit the
    model, or if the directory exists.
    """
    known = checked_format(format, option="--format")
    if known not in CALIBRATED:
        raise UserError(f"--format {format}: this format cannot be calibrated.{nearest(format, CALIBRATED)}")
    if order not in get_args(Order):
        raise UserError(f"unknown order {order!r} (--order).{nearest(order, get_args(Order))}")
    own = run.experiment.trainable.quantize if run.quantize == "none" else run.quantize
    if own != "none":
        raise UserError(
            f"quantize: the kernels of {run.directory} are stored in {own}, and cannot be quantized again. Nearest: the run that it started from."
        )
    out = check_new_run(directory)
    params = run.params() if params is None else params
    if run.experiment.adapter.enabled:
        say("note: the adapter is merged into the kernels")
        run, params = run.without_adapter(), run.model.merged(params)
    model = run.model.quantized(format, option="--format")
    assert isinstance(model, FunctionalModel), "only such models have quantized kernels"
    found, errors = model.calibrated(params, _rows(run, task, split, rows), ordered=order == "squares")
    say(_report(errors))
    try:
        write_copy(run, out, _experiment(run, model, known), found, recipe=f"quantize {run.directory} --task {task}")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return str(out)


def _rows(run: SavedRun, task: str, split: str, count: int) -> Batch:
    """Return rows of a task, as training would arrange them."""
    register_tasks()
    check_tasks([task], run.directory)
    from t2t.data.pipeline import batches

    data = replace(
        run.experiment.resolved_data(),
        task=task,
        split=split,
        batch_size=count,
        batch_ramp=None,
        shards=1,
        cached=None,
        vocabulary=run.vocabulary,
    )
    source = batches(data, run.experiment.model.kind, convert=run.experiment.objective.converter)
    try:
        batch: Batch = jax.tree.map(jnp.asarray, next(source))
    finally:
        source.close()
    return batch


def _experiment(run: SavedRun, model: FunctionalModel, format: Quantize) -> Experiment:
    """Return the configuration of a run with these quantized kernels, all of which are frozen."""
    frozen = tuple(sorted(model.quantized_kernels))
    trainable = Trainable(quantize=format, exclude=frozen)
    return replace(run.experiment, trainable=trainable, start_from=StartFrom(), ema=Ema())


def _report(errors: Errors) -> str:
    """Return a line about the errors of all layers."""
    found = [pair for layers in errors.values() for pair in layers]
    calibrated, rounded = (sum(pair[place] for pair in found) / max(1, len(found)) for place in (0, 1))
    return (
        f"calibrated {len(found)} kernels: the squared error of their outputs is {calibrated:.2%} of the squares of the outputs, on average"
        f" ({rounded:.2%} if values are rounded to the nearest)"
    )
