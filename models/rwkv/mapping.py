"""Conversion of RWKV-4 to and from `transformers` (RwkvForCausalLM)."""

from __future__ import annotations

from typing import Any

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, Transposed, Unsqueezed, linear, normalised, same
from t2t.models.decoder import DecoderConfig
from t2t.models.rwkv.presets import VOCAB_SIZE, rwkv4
from t2t.nn.model import ModelConfig
from t2t.nn.recurrent.rwkv4 import RWKV4Config

RESCALE_EVERY = 6
"""Value that every published checkpoint has."""


class RWKV4(Family):
    """RWKV-4."""

    name = "RWKV-4"
    model_types = ("rwkv",)
    prefix = "rwkv."

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        width = options.size("hidden_size", 4096)
        options.must("attention_hidden_size", width, why="time mixing has the width of the stack")
        options.must("layer_norm_epsilon", 1e-5, why="transformers always computes the last norm with 1e-5")
        # Against overflow in float16, transformers halves the hidden states after every rescale_every layers, and the layers' outputs with them. The norms
        # undo that: only their epsilon then has more weight.
        options.free("rescale_every")
        return rwkv4(
            num_layers=options.size("num_hidden_layers", 32),
            d_model=width,
            d_ff=options.size("intermediate_size", 4 * width),
            max_length=options.size("context_length", 1024),
            vocab_size=options.size("vocab_size", VOCAB_SIZE),
            tied=options.flag("tie_word_embeddings", False),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, DecoderConfig) or not isinstance(config.decoder.places[0].mixer, RWKV4Config):
            return None
        stack = config.decoder
        return {
            "architectures": ["RwkvForCausalLM"],
            "model_type": "rwkv",
            "vocab_size": config.vocab_size,
            "context_length": stack.max_length,
            "hidden_size": stack.d_model,
            "attention_hidden_size": stack.d_model,
            "num_hidden_layers": stack.num_layers,
            "intermediate_size": stack.d_ff,
            "layer_norm_epsilon": stack.norm_epsilon,
            "rescale_every": RESCALE_EVERY,
            "tie_word_embeddings": config.tied,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        copies = ("head.weight",) if config.tied else ()
        layer, ours = "rwkv.blocks.{layer}", "decoder/layers"
        table = [
            same("rwkv.embeddings.weight", "embeddings/token/table", *copies),
            *normalised("rwkv.blocks.0.pre_ln", "embeddings/norm", bias=True),
            *normalised("rwkv.ln_out", "decoder/final_norm", bias=True),
            same(f"{layer}.attention.time_decay", f"{ours}/time_mixing/log_decay"),
            same(f"{layer}.attention.time_first", f"{ours}/time_mixing/bonus"),
            *linear(f"{layer}.attention.output", f"{ours}/time_mixing/out", bias=False),
            *linear(f"{layer}.feed_forward.value", f"{ours}/channel_mixing/value", bias=False),
        ]
        parts: dict[str, tuple[str, str, tuple[str, ...]]] = {
            "attention": ("time_mixing", "ln1", ("key", "value", "receptance")),
            "feed_forward": ("channel_mixing", "ln2", ("key", "receptance")),
        }
        for theirs, (own, norm, names) in parts.items():
            table += normalised(f"{layer}.{norm}", f"{ours}/{own}_norm", bias=True)
            for name in names:
                share = f"{layer}.{theirs}.time_mix_{name}"
                table.append(Entry(share, (f"{ours}/{own}/mix_{name}",), Unsqueezed(count=2)))
                product = f"{layer}.{theirs}.{name}"
                table += linear(product, f"{ours}/{own}/{name}", bias=False)
        if not config.tied:
            table.append(Entry("head.weight", ("lm_head/kernel",), Transposed()))
        return table
