"""Export a run's model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2t.api.exporters import BUILT_IN, registered
from t2t.errors import Failure, UserError, nearest
from t2t.nn.model import ModelConfig, Part
from t2t.nn.weights import checked_format
from t2t.train.run import SavedRun
from t2t.types import Params

if TYPE_CHECKING:
    from t2t.export.mapping import Tensor
    from t2t.export.quantized_tensors import QuantizedTensors
    from t2t.export.sentence import Vectors

_PLATFORMS = ("cpu", "cuda", "tpu")
_SHARD_BYTES = 5_000_000_000
_TRANSFORMERS = ("huggingface", "sentence-transformers")
"""The formats that write a directory of transformers."""


def check_export(
    format: str,
    *,
    length: int | None = None,
    platforms: Sequence[str] | None = None,
    dtype: str | None = None,
    shard_bytes: int | None = None,
    merge_adapter: bool = False,
    quantize: str = "none",
) -> None:
    """Raise UserError for an unknown format, and for an option of another format, which would have no effect."""
    known = (*BUILT_IN, *registered())
    if format not in known:
        raise UserError(f"unknown format {format!r} (--format). There are: {', '.join(known)}.{nearest(format, known)}")
    from t2t.export.gguf_writing import TYPES
    from t2t.export.stablehlo import PLATFORMS
    from t2t.export.tensor_files import DTYPES

    options = (
        ("--length", length, ("stablehlo",)),
        ("--platforms", platforms, ("stablehlo",)),
        ("--dtype", dtype, (*_TRANSFORMERS, "gguf")),
        ("--shard-bytes", shard_bytes, _TRANSFORMERS),
        (
            "--quantize",
            None if checked_format(quantize, option="--quantize") == "none" else quantize,
            ("stablehlo", "huggingface"),
        ),
    )
    for option, value, owners in options:
        if value is not None and format not in owners:
            named = " or ".join(filter(None, (", ".join(owners[:-1]), owners[-1])))
            raise UserError(f"{option} is for --format {named}; it has no effect with --format {format}.")
    if merge_adapter and format == "peft":
        raise UserError("--merge-adapter has no effect with --format peft, which writes only the adapter.")
    dtypes = TYPES if format == "gguf" else tuple(DTYPES)
    if dtype is not None and dtype not in dtypes:
        raise UserError(f"unknown dtype {dtype!r} (--dtype). There are: {', '.join(dtypes)}.{nearest(dtype, dtypes)}")
    if shard_bytes is not None and shard_bytes < 1:
        raise UserError(f"--shard-bytes {shard_bytes} is less than 1. Nearest: 1.")
    if platforms is not None and not platforms:
        raise UserError(f"--platforms is empty. There are: {', '.join(PLATFORMS)}.")


def export_run(
    run: SavedRun,
    *,
    format: str,
    out: str,
    length: int | None = None,
    platforms: Sequence[str] | None = None,
    dtype: str | None = None,
    shard_bytes: int | None = None,
    check: bool = True,
    merge_adapter: bool = False,
    quantize: str = "none",
    overwrite: bool = False,
    params: Params | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a run's model to a directory and return its path. The options are those of `t2t export`.

    A model of several parts (ELECTRA) is written to a folder for each part.

    merge_adapter: merge the run's adapter into the kernels. The formats of transformers and gguf have no adapters, so for them it always is.
    quantize: format of the kernels of linear layers (`t2t.nn.weights`). For huggingface, integers are in the layout of compressed-tensors, "nf4" in that of bitsandbytes
        and "ternary" in that of BitNet.
    params: the run's parameters. By default, they are read from the checkpoint.
    say: receives log lines: what the format cannot store, and the results of the checks.
    Raises UserError for an unknown format, an option of another format, a model that the format does not support, or a directory that is not empty.
    """
    from t2t.api.sentence import vectors_of
    from t2t.export import write_safetensors, write_stablehlo
    from t2t.export.directory import check as check_out
    from t2t.export.directory import writing
    from t2t.models.families import exportable

    check_export(
        format,
        length=length,
        platforms=platforms,
        dtype=dtype,
        shard_bytes=shard_bytes,
        merge_adapter=merge_adapter,
        quantize=quantize,
    )
    if run.quantize != "none" and format != "stablehlo":
        raise UserError(
            f"--format {format}: {run.directory} was loaded with quantize={run.quantize!r}, which rounds its kernels. Nearest: quantize='none'."
        )
    check_out(Path(out), overwrite=overwrite)
    source = {"run": str(run.directory), "step": run.step, "recipe": run.record.recipe}
    parts: dict[str, Part] = {}
    vectors = None
    if format in _TRANSFORMERS:
        whole = run.experiment.model
        if format == "sentence-transformers":
            vectors = vectors_of(whole, where=str(run.directory))
        parts = dict(whole.parts()) or {"": Part(config=whole, params=lambda params: params)}
        _check_stored(run, quantize)
        for part in parts.values():  # raises UserError before the parameters are read
            _, options, wanted = exportable(part.config)
            _layout(part.config, options, wanted, quantize, dtype=dtype or "float32")
    if format == "peft":
        from t2t.api.peft import export_adapter

        return export_adapter(run, params, Path(out), overwrite=overwrite)
    if format == "gguf":
        from t2t.export.gguf_writing import check_model

        check_model(exportable(run.experiment.model)[1])
    if format == "stablehlo":
        run = run.quantized(quantize)
        params = params if params is None else run.model.compressed(params)
    params = run.params() if params is None else params
    adapter = run.experiment.adapter
    if merge_adapter and not adapter.enabled:
        raise UserError(f"--merge-adapter: {run.directory} has no adapter. Export it without this option.")
    if adapter.enabled and (merge_adapter or format in (*_TRANSFORMERS, "gguf")):
        if not merge_adapter:
            say(f"note: {format} has no adapters: the adapter is merged into the kernels")
        run, params = run.without_adapter(), run.model.merged(params)
    codes: Params | None = None
    if run.model.quantized_kernels and format != "stablehlo":
        if quantize == "none":
            say(f"note: the kernels, which are stored in {run.experiment.trainable.quantize}, are written as floats")
        elif quantize == "nf4":
            say(
                "note: the kernels, which are stored in nf4, are dequantized and rounded to nf4 again, which may change their scales"
            )
        else:
            codes = params
        run, params = run.without_quantization(), run.model.expanded(params)
    model, vocabulary = run.model, run.vocabulary
    if format in _TRANSFORMERS:
        for name, part in parts.items():
            _huggingface(
                run,
                part.config,
                part.params(params),
                Path(out) / name,
                codes=None if codes is None else part.params(codes),
                vectors=vectors,
                dtype=dtype or "float32",
                shard_bytes=shard_bytes or _SHARD_BYTES,
                quantize=quantize,
                check=check,
                overwrite=overwrite,
                say=say,
            )
        return Path(out)
    if format == "gguf":
        from t2t.api.gguf import export_gguf

        export_gguf(run, params, Path(out), dtype=dtype or "f16", compare=check, overwrite=overwrite, say=say)
        return Path(out)
    if format in registered():
        with writing(Path(out), overwrite=overwrite) as draft:
            registered()[format].write(run, params, draft)
        return Path(out)
    if format == "safetensors":
        return write_safetensors(
            model, params, vocabulary, out, adapter=run.experiment.adapter, overwrite=overwrite, source=source
        )
    data = run.experiment.data
    limit = model.config.max_length or data.targets_length
    return write_stablehlo(
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
        platforms=tuple(platforms or _PLATFORMS),
        overwrite=overwrite,
        source=source,
    )


def _check_stored(run: SavedRun, quantize: str) -> None:
    """Raise UserError if the kernels of a run are stored in another format than the one to write them in. Those with an adapter are merged with it first."""
    own = run.experiment.trainable.quantize
    if quantize not in ("none", own) and own != "none" and not run.experiment.adapter.enabled:
        raise UserError(
            f"--quantize {quantize}: the kernels of {run.directory} are stored in {own}, and cannot be quantized again. Nearest: {own}."
        )


def _layout(
    config: ModelConfig,
    options: Mapping[str, Any],
    wanted: Sequence[Tensor],
    quantize: str,
    *,
    dtype: str,
    codes: Params | None = None,
) -> QuantizedTensors | None:
    """Return the layout in which `transformers` reads kernels of a format; None if they are floats.

    options, wanted: from `exportable`.
    codes: parameters with kernels that are stored in the format.
    """
    from t2t.export.bitsandbytes import NF4Tensors
    from t2t.export.directory import flatten
    from t2t.export.packed_integers import PackedIntegers
    from t2t.export.packed_ternary import PackedTernary

    if quantize == "none":
        return None
    if quantize == "nf4":
        return NF4Tensors(config, wanted, dtype=dtype)
    if quantize == "ternary":
        return PackedTernary(config, wanted, dtype=dtype)
    return PackedIntegers(
        config,
        wanted,
        dtype=dtype,
        format=quantize,
        model_type=options["model_type"],
        codes=None if codes is None else flatten(codes),
    )


def _huggingface(
    run: SavedRun,
    config: ModelConfig,
    params: Params,
    out: Path,
    *,
    codes: Params | None,
    vectors: Vectors | None,
    dtype: str,
    shard_bytes: int,
    quantize: str,
    check: bool,
    overwrite: bool,
    say: Callable[[str], None],
) -> None:
    import numpy as np

    from t2t.api.importing import KEPT
    from t2t.api.sentence import sentence_encoder
    from t2t.export.family import canonical
    from t2t.export.huggingface import differing, opened, read_options, short_logits, write_huggingface
    from t2t.export.sentence import read_sentence
    from t2t.export.tokenizer_writing import check_tokenizer
    from t2t.models.families import exportable, family_of, left_behind
    from t2t.nn.model import VECTORS
    from t2t.sharding import MeshConfig

    family, options, wanted = exportable(config)
    if lost := left_behind(config, family, options):
        say(f"note: config.json of {family.name} cannot store {', '.join(lost)}: only training uses it")
    layout = _layout(config, options, wanted, quantize, dtype=dtype, codes=codes)
    # Compare in float32, because the run's own dtype and kernels may round differently.
    model = canonical(config).build()
    lost = [name for name in VECTORS if getattr(config, name, None) != getattr(model.config, name, None)]
    if vectors is None and lost:
        say(
            f"note: config.json does not store {', '.join(lost)}; use --format sentence-transformers to keep the vectors of texts"
        )

    def compare(draft: Path) -> None:
        texts = check_tokenizer(
            draft, run.vocabulary, model.config.kind, read_options(draft), kept=(run.directory / KEPT).is_dir()
        )
        if layout is not None:
            say(f"check: {layout.check(draft)}, ids of {texts} texts equal")
            return
        with contextlib.ExitStack() as files:
            source = files.enter_context(opened(draft, family_of))
            if (sentence := read_sentence(draft)) is not None:
                source = files.enter_context(sentence_encoder(source, sentence))
            if wrong := differing(source, params, dtype=dtype):
                raise Failure(f"{out} (--out): these tensors differ after writing: {', '.join(wrong[:4])}")
            before = short_logits(model, {name: params[name] for name in model.specs})
            after = short_logits(source.model, source.params(MeshConfig().build()))
            difference = float(np.abs(before - after).max())
            if dtype == "float32" and not difference <= 1e-5 * max(1.0, float(np.abs(before).max())):
                raise Failure(
                    f"{out} (--out): the logits of the exported model differ by {difference:.2e}; nothing was written"
                    " (use --no-check to write it anyway)"
                )
            say(
                f"check: {len(source.wanted)} tensors equal bit for bit in {dtype}, logits of the exported model differ by at most {difference:.1e},"
                f" ids of {texts} texts equal"
            )

    write_huggingface(
        params,
        options,
        wanted,
        run.vocabulary,
        out,
        vectors=vectors,
        kind=model.config.kind,
        lengths={"inputs": run.experiment.data.inputs_length, "targets": run.experiment.data.targets_length},
        dtype=dtype,
        shard_bytes=shard_bytes,
        layout=layout,
        kept=run.directory / KEPT,
        chat_template=run.record.chat_template,
        overwrite=overwrite,
        check=compare if check else None,
    )
