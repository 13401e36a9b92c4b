"""Export the adapter of a run for PEFT, and make a run from an adapter of PEFT."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from t2t.errors import UserError
from t2t.nn.model import ParamSpec
from t2t.train.run import SavedRun
from t2t.types import Params


def export_adapter(run: SavedRun, params: Params | None, out: Path, *, overwrite: bool) -> Path:
    """Write the adapter of a run. params: all its parameters; None reads them from the checkpoint.

    Raises UserError if the run has no adapter, or if `transformers` or PEFT has no such model or adapter.
    """
    from t2t.adapters import is_of_adapter
    from t2t.export.peft import write_adapter
    from t2t.models.families import exportable
    from t2t.optim.paths import flatten_specs

    experiment = run.experiment
    if not experiment.adapter.enabled:
        raise UserError(
            f"--format peft: {run.directory} has no adapter (--adapter.rank of t2t train). Nearest: huggingface."
        )
    _, options, wanted = exportable(experiment.model)
    trained = [
        path for path, spec in flatten_specs(run.model.specs).items() if spec.trainable and not is_of_adapter(path)
    ]
    return write_adapter(
        run.params() if params is None else params,
        experiment.adapter,
        trained,
        wanted,
        out,
        kind=experiment.model.kind,
        architecture=options["architectures"][0],
        overwrite=overwrite,
    )


def is_adapter(source: Path) -> bool:
    """Return whether a directory has an adapter of PEFT, and no model."""
    from t2t.export.huggingface import CONFIG as MODEL
    from t2t.export.peft.files import CONFIG

    return (source / CONFIG).is_file() and not (source / MODEL).is_file()


def import_adapter(
    source: Path,
    directory: Path,
    base: str | None,
    frozen_storage: Literal["copy", "reference"],
    *,
    say: Callable[[str], None],
) -> str:
    """Make a run of a model with an adapter of PEFT, and return a line that describes it.

    base: the run of the model. Its vocabulary and its user code are those of the new run.
    Raises UserError if there is no such run, if it has an adapter itself, or if the adapter is not supported or does not fit.
    """
    import jax.numpy as jnp
    import numpy as np

    from t2t.api.merging import write_copy
    from t2t.api.user_code.loading import load_run
    from t2t.export.directory import flatten, unflatten
    from t2t.export.peft import read_adapter
    from t2t.models.families import exportable
    from t2t.optim import Trainable
    from t2t.train.experiment import StartFrom
    from t2t.train.start import reference_to

    if base is None:
        raise UserError(
            f"{source} is an adapter of PEFT; name the run of its base model (--base RUN). Import the model first if there is none."
        )
    model_run = load_run(base)
    if model_run.experiment.adapter.enabled:
        raise UserError(f"{base} (--base) has an adapter itself. Merge it first: t2t.load({base!r}).merge(DIR).")
    family, _, wanted = exportable(model_run.experiment.model)
    read = read_adapter(source, wanted, prefix=family.prefix)
    experiment = replace(
        model_run.experiment,
        adapter=read.adapter,
        trainable=Trainable(frozen_storage=frozen_storage),
        start_from=StartFrom(run=base, step=model_run.step),
    )
    model = experiment.built(portable=True)
    specs: dict[str, ParamSpec] = flatten(model.specs)
    base_params = flatten(model_run.params())
    for path, array in read.frozen.items():
        if path not in base_params or not np.array_equal(np.asarray(base_params[path], np.float32), array):
            raise UserError(
                f"{source}: the adapter was trained beside another {path} than that of {base} (--base); PEFT saved it with the adapter."
                " Nearest: a base model with this parameter."
            )
    own = {path: jnp.asarray(array) for path, array in read.params.items()}
    arrays: dict[str, Any] = {**base_params, **own}
    for path, spec in specs.items():
        if path not in arrays or tuple(arrays[path].shape) != spec.shape:
            raise UserError(f"{source}: the adapter does not fit {base} (--base): {path} should be {list(spec.shape)}")
    frozen = frozenset(path for path, spec in specs.items() if not spec.trainable)
    reference = None
    if frozen_storage == "reference":
        reference = reference_to(model_run, frozen, experiment.trainable)
    recipe = f"import {source} --base {base}"
    try:
        write_copy(
            model_run, directory, experiment, unflatten(arrays), recipe=recipe, frozen=frozen, reference=reference
        )
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    trained = sum(int(arrays[path].size) for path, spec in specs.items() if spec.trainable)
    adapter = read.adapter
    if adapter.alpha is not None:
        say(
            f"note: the adapter has rank {adapter.rank} and alpha {adapter.alpha:g} at {len(adapter.targets)} linear layers and tables"
        )
    for note in read.notes:
        say(note)
    return f"{directory}: {family.name} with an adapter of {trained:,} parameters"
