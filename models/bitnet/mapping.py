"""Conversion of BitNet b1.58 to and from `transformers` (BitNetForCausalLM)."""

from __future__ import annotations

from typing import Any

from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry, normalised
from t2t.models.bitnet.presets import bitnet
from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import Llama, decoder_fields, decoder_options, separate_products
from t2t.nn.model import ModelConfig

ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
"""The quantization_config of a checkpoint with the float weights that each product rounds."""


class BitNet(Llama):
    """BitNet b1.58: LLaMA with ternary weights and norms before the last products. Without a quantization_config, `transformers` multiplies in floats."""

    name = "BitNet"
    model_types = ("bitnet",)

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        rounding = options.group("quantization_config")
        inner = Options(rounding, where=f"{options.where}: quantization_config")
        if rounding:
            inner.must("quant_method", "bitnet", why="another quantization")
            # Packed weights are read by `t2t.export.packed_ternary`.
            inner.free("linear_class", "quantization_mode")
            inner.must("use_rms_norm", False, why="another norm before each product is not supported")
            inner.must("modules_to_not_convert", None, why="all products of the layers are rounded")
            inner.free("rms_norm_eps")
            inner.finish()
        fields = decoder_fields(options, num_kv_heads=5, base=500_000.0, norm_epsilon=1e-5)
        return bitnet(
            **{**fields, "activation": options.activation("hidden_act", "relu2")},
            attention_biases=options.flag("attention_bias", False),
            quantization="ternary" if rounding else "none",
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        if not stack.sub_norms:
            return None
        rounding = {"quantization_config": dict(ONLINE)} if config.quantization == "ternary" else {}
        biases = {"attention_bias": stack.has_attention_biases}
        return {"architectures": ["BitNetForCausalLM"], "model_type": "bitnet", **shared, **biases, **rounding}

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer, and of the norms before the last ones. layer, ours: prefix of their names and of ours."""
        return [
            *separate_products(layer, ours, stack),
            *normalised(f"{layer}.self_attn.attn_sub_norm", f"{ours}/attention/sub_norm", bias=False),
            *normalised(f"{layer}.mlp.ffn_sub_norm", f"{ours}/mlp/sub_norm", bias=False),
        ]
