"""Compare exports in the layout of bitsandbytes with bitsandbytes in `transformers`: codes with its own quantization, logits with ours.

    python -m tests.interop.nf4

It needs torch, transformers, accelerate and bitsandbytes.
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
from safetensors.torch import load_file

from t2t.export.bitsandbytes import NF4Tensors
from t2t.export.directory import flatten, write_json
from t2t.export.huggingface import opened
from t2t.export.mapping import write_tensor
from t2t.models.families import exportable, family_of
from t2t.sharding import MeshConfig
from t2t.types import Batch
from tests.interop.ours import tokens

LIMIT = 1e-4
SIZES: dict[str, Any] = {"vocab_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS: dict[str, tuple[str, Any]] = {
    "LLaMA": (
        "AutoModelForCausalLM",
        transformers.LlamaConfig(**SIZES, hidden_size=64, intermediate_size=128, num_key_value_heads=2),
    ),
    "Qwen 3": (
        "AutoModelForCausalLM",
        transformers.Qwen3Config(**SIZES, hidden_size=64, intermediate_size=128, num_key_value_heads=2, head_dim=16),
    ),
    "T5 1.1": (
        "AutoModelForSeq2SeqLM",
        transformers.T5Config(
            vocab_size=96, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
        ),
    ),
    "BERT with labels": (
        "AutoModelForSequenceClassification",
        transformers.BertConfig(**SIZES, hidden_size=64, intermediate_size=128),
    ),
}


def logits(kind: str, model: Any, ids: np.ndarray) -> np.ndarray:
    """Return the logits of `transformers`."""
    given = {"input_ids": torch.from_numpy(ids)}
    if kind == "AutoModelForSeq2SeqLM":
        given["decoder_input_ids"] = given["input_ids"]
    with torch.no_grad():
        return model(**given).logits.float().numpy()


def compare(kind: str, config: Any, folder: Path) -> tuple[int, int, float]:
    """Return the number of codes that differ from those of bitsandbytes, the number of all codes, and the largest difference of logits."""
    torch.manual_seed(0)
    auto = getattr(transformers, kind)
    auto.from_config(config).save_pretrained(folder / "model")
    with opened(folder / "model", family_of) as source:
        model, params = source.config.build(), source.params(MeshConfig().build())
    _, options, wanted = exportable(model.config)
    flat, by_name = flatten(params), {tensor.name: tensor for tensor in wanted}
    layout = NF4Tensors(model.config, wanted, dtype="float32")
    (folder / "out").mkdir()
    layout.write(folder / "out", lambda name: write_tensor(by_name[name], flat), shard_bytes=10**9)
    write_json(folder / "out" / "config.json", {**options, "quantization_config": layout.options()})
    # Some CPUs multiply in bfloat16; the dequantized weights are float32 on all of them.
    own = auto.from_pretrained(folder / "out").dequantize().float().eval()
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True
    )
    auto.from_pretrained(folder / "model", quantization_config=settings).save_pretrained(folder / "theirs")
    ours, theirs = load_file(folder / "out" / "model.safetensors"), load_file(folder / "theirs" / "model.safetensors")
    # bitsandbytes also quantizes linear layers outside of stacks of layers, such as BERT's pooler.
    codes = [name for name in layout.quantized if ours[name].dtype == torch.uint8]
    different = sum(int((ours[name] != theirs[name]).sum()) for name in codes)
    ids = np.random.default_rng(0).integers(3, 96, (2, 9))
    given = tokens(ids)
    batch = Batch(encoder=given, decoder=None, targets=ids, weights=np.ones(ids.shape, np.float32))
    if model.config.kind == "decoder":
        batch = batch.replace(encoder=None, decoder=given)
    elif model.config.kind == "encoder_decoder":
        batch = batch.replace(decoder=given)
    written = {path for tensor in layout.quantized.values() for path in tensor.ours}
    quantized = model.quantized("nf4", written.__contains__)
    found = np.asarray(jax.jit(quantized.logits)(quantized.compressed(params), batch))
    found = found[:, 0] if kind.endswith("SequenceClassification") else found
    return different, sum(theirs[name].numel() for name in codes), float(np.abs(found - logits(kind, own, ids)).max())


def main() -> int:
    """Print a row for each model. Return 1 if codes or logits differ."""
    transformers.logging.set_verbosity_error()
    good = True
    for name, (kind, config) in MODELS.items():
        with tempfile.TemporaryDirectory(prefix="t2t-nf4-") as folder:
            different, count, difference = compare(kind, config, Path(folder))
        print(f"| {name} | {different} of {count:,} | {difference:.1e} |", flush=True)
        good = good and different == 0 and count > 0 and difference < LIMIT
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
