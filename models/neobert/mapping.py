"""Conversion of NeoBERT to and from the files that its authors published (NeoBERTLMHead, NeoBERT, NeoBERTForSequenceClassification).

`transformers` has no NeoBERT: it runs the code of the repository chandar-lab/NeoBERT, which the files name in `auto_map`. That code is not needed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, Interleaved, Operation, Shape, fused, linear, normalised, same
from t2t.models.bert.heads import Heads
from t2t.models.bert.presets import VOCAB_SIZE
from t2t.models.encoder import EncoderConfig
from t2t.models.neobert.presets import ROTARY, UNIFORM, inner_width, neobert
from t2t.nn.model import ModelConfig
from t2t.nn.rotary import shuffled

_CODE = "chandar-lab/NeoBERT--model"
"""The module of the published code, in the notation of `transformers`: repository, then module."""
_AUTO = {
    "AutoConfig": "NeoBERTConfig",
    "AutoModel": "NeoBERT",
    "AutoModelForMaskedLM": "NeoBERTLMHead",
    "AutoModelForSequenceClassification": "NeoBERTForSequenceClassification",
}


@dataclass(frozen=True)
class _PairedHeads(Operation):
    """Kernels of queries, keys and values, head by head, with the coordinates of queries and keys that rotate together next to each other.

    Here, coordinate i of the first half of a head rotates with coordinate i of the second half.
    """

    heads: int

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Split the heads, and move the pairs of coordinates apart."""
        query, key, value = Interleaved(self.heads).to_ours(theirs, shapes)
        return [*(shuffled(one.T, self.heads, to_halves=True).T for one in (query, key)), value]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Put the pairs of coordinates next to each other, and interleave the heads."""
        query, key, value = ours
        paired = [shuffled(one.T, self.heads, to_halves=False).T for one in (query, key)]
        return Interleaved(self.heads).to_theirs([*paired, value])

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the fused kernel, output axis first."""
        return Interleaved(self.heads).shape(shapes)


class NeoBert(Family):
    """NeoBERT."""

    name = "NeoBERT"
    model_types = ("neobert",)
    prefix = "model."
    heads = Heads(model="NeoBERT", pooler="dense", kinds=("SequenceClassification",))

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Without the tensors of a masked-LM head, logits are the product with the embeddings."""
        # Arguments with which the published files were made; its code ignores them.
        options.free("auto_map", "kwargs", "pretrained_model_name_or_path", "trust_remote_code")
        options.free("embedding_init_range", "classifier_init_range")
        width, heads = options.size("hidden_size", 768), options.size("num_attention_heads", 12)
        options.must("dim_head", width // heads, why="it is hidden_size / num_attention_heads")
        head = self.heads.read(options, weights, masked_lm=False)
        if "head" not in head:
            masked_lm = not {"decoder.weight", "decoder.bias"}.isdisjoint(weights.names)
            head = {"tied": not masked_lm, "head_bias": masked_lm}
        return neobert(
            num_layers=options.size("num_hidden_layers", 28),
            d_model=width,
            num_heads=heads,
            d_ff=inner_width(options.size("intermediate_size", 3072)),
            max_length=options.size("max_length", 1024),
            vocab_size=options.size("vocab_size", VOCAB_SIZE),
            norm_epsilon=options.number("norm_eps", 1e-6),
            init_range=options.number("decoder_init_range", 0.02),
            **head,
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or config.encoder.positions != "rotary":
            return None
        stack = config.encoder
        if stack.norm != "rms" or stack.rotary != ROTARY:
            return None
        init_range = round(stack.init_std / UNIFORM, 9)
        return {
            "architectures": ["NeoBERT" if config.tied else "NeoBERTLMHead"],
            "auto_map": {auto: f"{_CODE}.{name}" for auto, name in _AUTO.items()},
            "model_type": "neobert",
            "vocab_size": config.vocab_size,
            "hidden_size": stack.d_model,
            "num_hidden_layers": stack.num_layers,
            "num_attention_heads": stack.num_heads,
            "intermediate_size": -(-3 * stack.d_ff // 2),
            "max_length": stack.max_length,
            "norm_eps": stack.norm_epsilon,
            "decoder_init_range": init_range,
            "embedding_init_range": init_range,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        layer, ours = "model.transformer_encoder.{layer}", "encoder/layers"
        parts = tuple(f"{ours}/attention/{name}/kernel" for name in ("query", "key", "value"))
        table = [
            same("model.encoder.weight", "embeddings/token/table"),
            Entry(f"{layer}.qkv.weight", parts, _PairedHeads(config.encoder.num_heads)),
            *linear(f"{layer}.wo", f"{ours}/attention/out", bias=False),
            *fused(f"{layer}.ffn.w12", [f"{ours}/mlp/gate", f"{ours}/mlp/up"], bias=False),
            *linear(f"{layer}.ffn.w3", f"{ours}/mlp/down", bias=False),
            *normalised(f"{layer}.attention_norm", f"{ours}/attention_norm", bias=False),
            *normalised(f"{layer}.ffn_norm", f"{ours}/mlp_norm", bias=False),
            *normalised("model.layer_norm", "encoder/final_norm", bias=False),
            *self.heads.entries(config),
        ]
        if config.head == "tokens" and not config.tied:
            table += linear("decoder", "lm_head", bias=config.head_bias)
        return table
