"""`t2t export`: export a run's model to another format."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import tyro

from t2t.api.export import check_export, export_run
from t2t.api.exporters import BUILT_IN
from t2t.limits import CountOrZero, Generated, Range
from t2t.nn.weights import Quantize
from t2t.paths import LocalPath


def export(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    format: str,
    out: LocalPath,
    step: CountOrZero | None = None,
    plain_weights: bool = False,
    length: Generated | None = None,
    platforms: tuple[str, ...] | None = None,
    dtype: str | None = None,
    shard_bytes: Annotated[int, Range(1, 10**12)] | None = None,
    check: bool = True,
    merge_adapter: bool = False,
    quantize: Quantize = "none",
    overwrite: bool = False,
) -> None:
    """Export the model of a run's checkpoint to another format.

    Args:
        run: the run's directory.
        format: stablehlo (programs and weights that run with JAX only), safetensors (weights and configuration), huggingface (a directory
            for from_pretrained of transformers), sentence-transformers (the same for SentenceTransformer, with the pooling), gguf (a file for llama.cpp) or peft (the adapter alone, for PEFT); or a format of your own, see docs/extending.md.
        out: directory to write to. The halves of an ELECTRA are written to its folders discriminator and generator (huggingface).
        step: checkpoint to export. Default: the newest.
        plain_weights: use the trained parameters of a run with a running mean (--ema.decay), instead of the mean.
        length: stablehlo: maximum tokens that the greedy program generates. Default: the run's targets length.
        platforms: stablehlo: platforms that the programs can run on. Default: cpu, cuda and tpu.
        dtype: huggingface, sentence-transformers: type of the weights: float32, bfloat16 or float16. Default: float32.
            gguf: f16 or q8_0 (8 bits). Default: f16.
        shard_bytes: huggingface, sentence-transformers: maximum bytes of a weights file. Default: 5,000,000,000.
        check: huggingface, sentence-transformers: read the directory back and compare every tensor, bit for bit, and the logits of a short input.
            gguf: the same within the rounding of the type, and the ids of texts.
        merge_adapter: merge the run's adapter into the kernels. huggingface, sentence-transformers and gguf have no adapters: they always do.
        quantize: store the kernels of linear layers in this format. stablehlo: any; huggingface: integers in the layout of compressed-tensors, nf4 in that of bitsandbytes, or ternary in that of BitNet. See docs/quantization.md.
        overwrite: replace files in a directory that is not empty.

    Raises:
        UserError: the format, the run or the checkpoint is not found, or `out` is not empty.
    """
    if format in BUILT_IN or not Path(run).is_dir():  # the run's own code can register further formats
        check_export(
            format,
            length=length,
            platforms=platforms,
            dtype=dtype,
            shard_bytes=shard_bytes,
            merge_adapter=merge_adapter,
            quantize=quantize,
        )
    from t2t.api.user_code.loading import load_run
    from t2t.export.directory import check as check_out

    check_out(Path(out), overwrite=overwrite)
    written = export_run(
        load_run(run, step, plain_weights=plain_weights),
        format=format,
        out=out,
        length=length,
        platforms=platforms,
        dtype=dtype,
        shard_bytes=shard_bytes,
        check=check,
        merge_adapter=merge_adapter,
        quantize=quantize,
        overwrite=overwrite,
        say=lambda line: print(line, file=sys.stderr),
    )
    for path in sorted(path for path in written.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:>14,}  {path}")
