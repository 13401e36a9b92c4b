"""`t2t export`: a run's model for use elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from t2t.errors import Failure, UserError, nearest
from t2t.limits import CountOrZero, Generated, Range
from t2t.paths import LocalPath

if TYPE_CHECKING:
    from t2t.train.run import SavedRun
    from t2t.types import Params

_PLATFORMS = ("cpu", "cuda", "tpu")
_SHARD_BYTES = 5_000_000_000
FORMATS = ("stablehlo", "safetensors", "huggingface")


def export(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    format: str,
    out: LocalPath,
    step: CountOrZero | None = None,
    length: Generated | None = None,
    platforms: tuple[str, ...] | None = None,
    dtype: str | None = None,
    shard_bytes: Annotated[int, Range(1, 10**12)] | None = None,
    check: bool = True,
    overwrite: bool = False,
) -> None:
    """Write the model of a run's checkpoint for use elsewhere.

    Args:
        run: the run's directory.
        format: stablehlo (programs that JAX alone runs, with their weights), safetensors (weights and configuration) or huggingface (a directory
            that from_pretrained of transformers loads).
        out: the directory to write to.
        step: which checkpoint; the newest where none is given.
        length: stablehlo: tokens that the greedy program generates at most; those of the run's targets where not given.
        platforms: stablehlo: what the programs are compiled for; cpu, cuda and tpu if not given.
        dtype: huggingface: of the weights: float32, bfloat16 or float16; float32 if not given.
        shard_bytes: huggingface: how large a file of weights may become before another is begun; 5,000,000,000 if not given.
        check: huggingface: read the directory back and compare every tensor, bit for bit, and the logits of a short input.
        overwrite: replace files in a directory that is not empty.

    Raises:
        UserError: no such format, run or checkpoint, or `out` is not empty.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r} (--format). There are: {', '.join(FORMATS)}.")
    from t2t.api.user_code.loading import load_run
    from t2t.export import write_safetensors, write_stablehlo
    from t2t.export.directory import check as check_out

    _check_options(format, length=length, platforms=platforms, dtype=dtype, shard_bytes=shard_bytes)
    check_out(Path(out), overwrite=overwrite)
    loaded = load_run(run, step)
    source = {"run": str(loaded.directory), "step": loaded.step, "recipe": loaded.record.recipe}
    if format == "huggingface":
        from t2t.models.families import exportable

        exportable(loaded.experiment.model)  # what cannot be is told before anything is read
    model, params, vocabulary = loaded.model, loaded.params(), loaded.vocabulary
    if format == "huggingface":
        written = _huggingface(
            loaded,
            params,
            out,
            dtype=dtype or "float32",
            shard_bytes=shard_bytes or _SHARD_BYTES,
            check=check,
            overwrite=overwrite,
        )
    elif format == "safetensors":
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
            platforms=platforms or _PLATFORMS,
            overwrite=overwrite,
            source=source,
        )
    for path in sorted(written.iterdir()):
        print(f"{path.stat().st_size:>14,}  {path}")


def _check_options(
    format: str,
    *,
    length: int | None,
    platforms: tuple[str, ...] | None,
    dtype: str | None,
    shard_bytes: int | None,
) -> None:
    """Refuse what cannot be, and an option of another format, which would have no effect. Raises UserError."""
    from t2t.export.stablehlo import PLATFORMS
    from t2t.export.tensor_files import DTYPES

    own = {"--length": length, "--platforms": platforms, "--dtype": dtype, "--shard-bytes": shard_bytes}
    formats = {
        "--length": "stablehlo",
        "--platforms": "stablehlo",
        "--dtype": "huggingface",
        "--shard-bytes": "huggingface",
    }
    for option, value in own.items():
        if value is not None and formats[option] != format:
            raise UserError(f"{option} is for --format {formats[option]}; it has no effect with --format {format}.")
    if dtype is not None and dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r} (--dtype).{nearest(dtype, DTYPES)}")
    if shard_bytes is not None and shard_bytes < 1:
        raise UserError(f"--shard-bytes {shard_bytes} is less than 1. Nearest: 1.")
    if platforms is not None and not platforms:
        raise UserError(f"--platforms names none. There are: {', '.join(PLATFORMS)}.")


def _huggingface(
    run: SavedRun, params: Params, out: str, *, dtype: str, shard_bytes: int, check: bool, overwrite: bool
) -> Path:
    import numpy as np

    from t2t.export.family import canonical
    from t2t.export.huggingface import differing, opened, read_options, short_logits, write_huggingface
    from t2t.export.tokenizer_writing import check_tokenizer
    from t2t.launch.import_model import KEPT
    from t2t.models.families import exportable, family_of, left_behind
    from t2t.sharding import MeshConfig

    family, options, wanted = exportable(run.experiment.model)
    if lost := left_behind(run.experiment.model, family, options):
        print(
            f"note: config.json of {family.name} has no place for {', '.join(lost)}: training alone has use for it",
            file=sys.stderr,
        )
    # What both compute in float32: a run's own type and kernels round otherwise.
    model = canonical(run.experiment.model).build()

    def compare(draft: Path) -> None:
        texts = check_tokenizer(
            draft, run.vocabulary, model.config.kind, read_options(draft), kept=(run.directory / KEPT).is_dir()
        )
        with opened(draft, family_of) as source:
            if wrong := differing(source, params, dtype=dtype):
                raise Failure(f"{out} (--out): not written as it is: {', '.join(wrong[:4])}")
            before = short_logits(model, params)
            after = short_logits(source.model, source.params(MeshConfig().build()))
            difference = float(np.abs(before - after).max())
            if dtype == "float32" and not difference <= 1e-5 * max(1.0, float(np.abs(before).max())):
                raise Failure(
                    f"{out} (--out): logits of the directory read back differ by {difference:.2e}, nothing was written"
                    " (--no-check writes it anyway)"
                )
            print(
                f"check: {len(wanted)} tensors equal bit for bit in {dtype}, logits read back differ by at most {difference:.1e},"
                f" ids of {texts} texts equal",
                file=sys.stderr,
            )

    return write_huggingface(
        params,
        options,
        wanted,
        run.vocabulary,
        out,
        kind=model.config.kind,
        lengths={"inputs": run.experiment.data.inputs_length, "targets": run.experiment.data.targets_length},
        dtype=dtype,
        shard_bytes=shard_bytes,
        kept=run.directory / KEPT,
        overwrite=overwrite,
        check=compare if check else None,
    )
