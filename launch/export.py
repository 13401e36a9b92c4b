"""`t2t export`: a run's model for use elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from t2t.api.export import check_export, export_run
from t2t.api.exporters import BUILT_IN
from t2t.limits import CountOrZero, Generated, Range
from t2t.paths import LocalPath


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
            that from_pretrained of transformers loads); or a format of your own, see docs/extending.md.
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
    if format in BUILT_IN or not Path(run).is_dir():  # the run's own code may know others
        check_export(format, length=length, platforms=platforms, dtype=dtype, shard_bytes=shard_bytes)
    from t2t.api.user_code.loading import load_run
    from t2t.export.directory import check as check_out

    check_out(Path(out), overwrite=overwrite)
    written = export_run(
        load_run(run, step),
        format=format,
        out=out,
        length=length,
        platforms=platforms,
        dtype=dtype,
        shard_bytes=shard_bytes,
        check=check,
        overwrite=overwrite,
        say=lambda line: print(line, file=sys.stderr),
    )
    for path in sorted(written.iterdir()):
        print(f"{path.stat().st_size:>14,}  {path}")
