"""`t2t quantize`: quantize the kernels of a run, calibrated on a task."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import tyro

from t2t.api.quantizing import Order, quantize_run
from t2t.api.user_code.loading import load_run
from t2t.limits import CountOrZero, Rows
from t2t.paths import LocalPath, check_new_run


def quantize(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    dir: LocalPath,
    task: str,
    format: Literal["int8", "int8_groups", "int4", "int4_groups"] = "int4_groups",
    rows: Rows = 128,
    split: str = "train",
    order: Order = "inputs",
    step: CountOrZero | None = None,
    plain_weights: bool = False,
) -> None:
    """Make a run of the same model with kernels in eight or four bits that are calibrated on a task (GPTQ): the outputs of the layers change less than with values that
    are rounded to the nearest.

    The new run infers, evaluates and exports like any other. See docs/quantization.md.

    Args:
        run: the run's directory.
        dir: the new run's directory, which must not exist.
        task: task or mixture that the run is to be good at. Only its inputs to the layers matter, not the model's answers.
        format: how to store the kernels of linear layers: integers with a scale for each output (int8, int4), or for each group of 64 inputs (int8_groups, int4_groups).
        rows: number of rows of the task to calibrate on, as long and as packed as in the run's training. All are in memory together.
        split: split of the task.
        order: which inputs of a layer to round first: in their order (inputs), or those with the largest squares (squares).
        step: checkpoint to quantize. Default: the newest.
        plain_weights: use the trained parameters of a run with a running mean (--ema.decay), instead of the mean.

    Raises:
        UserError: the run, the checkpoint or the task is not found, the model cannot have quantized kernels, or the new directory exists.
    """
    check_new_run(dir)
    print(
        quantize_run(
            load_run(run, step, plain_weights=plain_weights),
            dir,
            task=task,
            format=format,
            rows=rows,
            split=split,
            order=order,
            say=lambda line: print(line, file=sys.stderr),
        )
    )
