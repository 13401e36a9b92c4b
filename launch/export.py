"""`t2t export`: a run's model for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from t2t.errors import UserError

FORMATS = ("stablehlo", "safetensors")


def export(
    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    format: str,
    out: str,
    step: int | None = None,
    length: int | None = None,
    platforms: tuple[str, ...] = ("cpu", "cuda", "tpu"),
    overwrite: bool = False,
) -> None:
    """Write the model of a run's checkpoint for use elsewhere.

    Args:
        run: the run's directory.
        format: stablehlo (programs that JAX alone runs, with their weights) or safetensors (weights and configuration).
        out: the directory to write to.
        step: which checkpoint; the newest where none is given.
        length: stablehlo: tokens that the greedy program generates at most; those of the run's targets where not given.
        platforms: stablehlo: what the programs are compiled for.
        overwrite: replace files in a directory that is not empty.

    Raises:
        UserError: no such format, run or checkpoint, or `out` is not empty.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r} (--format). There are: {', '.join(FORMATS)}.")
    from t2t.export import write_safetensors, write_stablehlo
    from t2t.export.directory import check
    from t2t.launch.loading import load_run

    check(Path(out), overwrite=overwrite)
    loaded = load_run(run, step)
    source = {"run": str(loaded.directory), "step": loaded.step, "recipe": loaded.record.recipe}
    model, params, vocabulary = loaded.model, loaded.params(), loaded.vocabulary
    if format == "safetensors":
        written = write_safetensors(model, params, vocabulary, out, overwrite=overwrite, source=source)
    else:
        data = loaded.experiment.data
        limit = model.config.max_length or data.targets_length
        written = write_stablehlo(
            model,
            params,
            vocabulary,
            out,
            length=min(data.targets_length, limit) if length is None else length,
            fixed_lengths={
                "inputs_length": data.inputs_length,
                "targets_length": data.targets_length,
                "length": data.inputs_length,
                "prompt_length": data.inputs_length,
            },
            platforms=platforms,
            overwrite=overwrite,
            source=source,
        )
    for path in sorted(written.iterdir()):
        print(f"{path.stat().st_size:>14,}  {path}")
