"""Make a run of a model whose adapter is merged into its kernels."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from t2t.api.importing import KEPT, parameters_alone
from t2t.checkpoint import Checkpoints, Reference
from t2t.errors import UserError
from t2t.optim import Ema, Trainable
from t2t.paths import check_new_run
from t2t.train import own_code, run_checksums
from t2t.train.experiment import Experiment, StartFrom
from t2t.train.run import CHECKPOINTS, SavedRun, open_run
from t2t.types import Params


def merge_run(run: SavedRun, directory: str, *, params: Params | None = None) -> str:
    """Write a new run, at step 0, of the model with the adapter merged into its kernels. Return its directory.

    It infers, exports and is trained further (`from:RUN`) like an import.

    params: the parameters of `run`. By default, they are read from the checkpoint.
    Raises UserError if the run has no adapter, or if the directory exists.
    """
    if not run.experiment.adapter.enabled:
        raise UserError(f"merge: {run.directory} has no adapter")
    if run.quantize != "none":
        raise UserError(
            f"merge: {run.directory} was loaded with quantize={run.quantize!r}, which rounds its kernels. Nearest: quantize='none'."
        )
    out = check_new_run(directory)
    merged = run.model.merged(run.params() if params is None else params)
    plain = run.without_adapter().experiment
    experiment = replace(plain, trainable=Trainable(), start_from=StartFrom(), ema=Ema())
    try:
        write_copy(run, out, experiment, merged, recipe=f"merge {run.directory}")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return str(out)


def write_copy(
    run: SavedRun,
    directory: Path,
    experiment: Experiment,
    params: Params,
    *,
    recipe: str,
    frozen: Collection[str] = (),
    reference: Reference | None = None,
) -> None:
    """Write a run, at step 0, with the vocabulary, the tokenizer files and the code of `run`, and other parameters.

    frozen, reference: see `Checkpoints.keep_apart`.
    """
    record = replace(run.record, recipe=recipe, experiment=experiment, vocabulary=run.vocabulary)
    open_run(directory, record, own_code.read(run.directory, record.code) if record.code else None)
    if (run.directory / KEPT).is_dir():
        shutil.copytree(run.directory / KEPT, directory / KEPT)
        run_checksums.seal(directory)
    with Checkpoints(directory / CHECKPOINTS, experiment.checkpoint) as checkpoints:
        checkpoints.keep_apart(frozen, reference)
        checkpoints.save(0, parameters_alone(params), {}, {})
