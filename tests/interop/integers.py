"""Compare exports in the layout of compressed-tensors with `transformers`: values that compressed-tensors unpacks with those of our kernels, logits with ours.

    python -m tests.interop.integers

It needs torch, transformers, accelerate and compressed-tensors.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file

from t2t.errors import UserError
from t2t.export.directory import flatten, write_json
from t2t.export.huggingface import opened
from t2t.export.mapping import write_tensor
from t2t.export.packed_integers import PACKED, PackedIntegers
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from t2t.types import Batch
from tests.interop.nf4 import MODELS, SIZES, logits
from tests.interop.ours import tokens

LIMIT = 1e-4
PARTS = ("weight_packed", "weight_scale", "weight_shape")
GPT2 = transformers.GPT2Config(vocab_size=96, n_layer=2, n_head=4, n_embd=64)
JOINED = {
    "GPT-NeoX (interleaved)": (
        "AutoModelForCausalLM",
        transformers.GPTNeoXConfig(**SIZES, hidden_size=64, intermediate_size=128),
    ),
    "ModernBERT (joined)": (
        "AutoModelForMaskedLM",
        transformers.ModernBertConfig(
            **SIZES, hidden_size=64, intermediate_size=128, pad_token_id=0, cls_token_id=1, sep_token_id=2
        ),
    ),
}


def imported(kind: str, config: Any, folder: Path) -> tuple[Any, Any]:
    """Return our model and the parameters of a random model of `transformers`."""
    torch.manual_seed(0)
    getattr(transformers, kind).from_config(config).save_pretrained(folder)
    with opened(folder, family_of) as source:
        return source.config.build(), source.params(MeshConfig().build())


def compare(kind: str, config: Any, format: str, folder: Path) -> tuple[int, int, float, float]:
    """Return the number of values that compressed-tensors reads in another way than we do, the number of all values, the largest difference of logits, and that of the floats' logits."""
    model, params = imported(kind, config, folder / "model")
    _, options, wanted = exportable(model.config)
    flat, by_name = flatten(params), {tensor.name: tensor for tensor in wanted}
    layout = PackedIntegers(model.config, wanted, dtype="float32", format=format, model_type=options["model_type"])
    (folder / "out").mkdir()
    layout.write(folder / "out", lambda name: write_tensor(by_name[name], flat), shard_bytes=10**9)
    rest = {"pad_token_id": config.pad_token_id, "quantization_config": layout.options()}
    write_json(folder / "out" / "config.json", {**options, **rest})
    written = load_file(folder / "out" / "model.safetensors")
    kernels = {path for tensor in layout.quantized.values() for path in tensor.ours}
    quantized = model.quantized(format, kernels.__contains__)
    different = count = 0
    scheme = QuantizationConfig.model_validate(layout.options()).config_groups["group_0"]
    dequantized = flatten(quantized.expanded(quantized.compressed(params)))
    for name, tensor in layout.quantized.items():
        parts = {part: written[f"{name}_{part.removeprefix('weight_')}"] for part in PARTS}
        read = PackedQuantizationCompressor.decompress(parts, scheme)["weight"].numpy()
        different += int((read != write_tensor(tensor, dequantized)).sum())
        count += read.size
    own = getattr(transformers, kind).from_pretrained(folder / "out", dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(3, 96, (2, 9))
    given = tokens(ids)
    batch = Batch(encoder=given, decoder=None, targets=ids, weights=np.ones(ids.shape, np.float32))
    if model.config.kind == "decoder":
        batch = batch.replace(encoder=None, decoder=given)
    elif model.config.kind == "encoder_decoder":
        batch = batch.replace(decoder=given)

    def found(network: Any, values: Any) -> np.ndarray:
        every = np.asarray(jax.jit(network.logits)(values, batch))
        return every[:, 0] if kind.endswith("SequenceClassification") else every

    theirs = logits(kind, own, ids)
    differences = [
        float(np.abs(found(*one) - theirs).max())
        for one in ((quantized, quantized.compressed(params)), (model, params))
    ]
    return different, count, differences[0], differences[1]


def refusal(kind: str, config: Any, folder: Path) -> str:
    """Return the line with which the export of a model is refused, or nothing."""
    model, _ = imported(kind, config, folder)
    _, options, wanted = exportable(model.config)
    try:
        PackedIntegers(model.config, wanted, dtype="float32", format="int4_groups", model_type=options["model_type"])
    except UserError as error:
        return str(error)
    return ""


def main() -> int:
    """Print a row for each model and format. Return 1 if values or logits differ, or if a model is not refused that has to be."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    good = True
    for name, (kind, config) in {**MODELS, **JOINED}.items():
        for format in PACKED:
            with tempfile.TemporaryDirectory(prefix="t2t-integers-") as folder:
                different, count, difference, floats = compare(kind, config, format, Path(folder))
            print(f"| {name} | `{format}` | {different} of {count:,} | {difference:.1e} | {floats:.1e} |", flush=True)
            # The logits of the float weights are others: the comparison can tell.
            good = good and different == 0 and count > 0 and difference < LIMIT and floats > 100 * difference
    with tempfile.TemporaryDirectory(prefix="t2t-integers-") as folder:
        line = refusal("AutoModelForCausalLM", GPT2, Path(folder))
    print(f"GPT-2: {line}", flush=True)
    good = good and "is not the weight of a linear layer" in line
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
