"""Conversion of Phi-3 and Phi-4 to and from `transformers` (Phi3ForCausalLM)."""

from __future__ import annotations

from typing import Any

from t2t.errors import nearest
from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry, fused, linear
from t2t.models.config import StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.llama.mapping import Llama, decoder_fields, decoder_options, read_rotary
from t2t.models.phi.presets import phi
from t2t.nn.model import ModelConfig
from t2t.nn.rotary import Rotary

_LONG = ("longrope", "su", "yarn")
"""Names of longrope in published files. transformers reads all of them as longrope."""


class Phi3(Llama):
    """Phi-3 and Phi-4: LLaMA with products that are computed together, and with positions for a share of each head."""

    name = "Phi-3"
    model_types = ("phi3",)

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        # The published files name their own code. The model type says what it computes.
        options.free("auto_map")
        for name in ("attention_bias", "mlp_bias", "lm_head_bias"):
            options.must(name, False, why="transformers has no biases in Phi-3")
        for name in ("full_attn_mod", "interpolate_factor"):
            options.must(name, 1, why="transformers does not read it")
        rate = options.number("resid_pdrop", 0.0)
        options.must("embd_pdrop", rate, why="the embeddings and the residual stream must have the same dropout rate")
        return phi(
            **decoder_fields(options, rotary=_read_rotary(options), max_length=4096, norm_epsilon=1e-5),
            window=None if options.nullable("sliding_window", None) is None else options.size("sliding_window"),
            dropout=rate,
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        shared = decoder_options(config)
        if shared is None:
            return None
        assert isinstance(config, DecoderConfig)
        stack = config.decoder
        if stack.rotary.scaling not in ("none", "longrope"):
            return None
        return {
            "architectures": ["Phi3ForCausalLM"],
            "model_type": "phi3",
            **shared,
            **_rotary_options(stack),
            "sliding_window": stack.window,
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
        }

    def products(self, layer: str, ours: str, stack: StackConfig) -> list[Entry]:
        """Return the entries of the matrix products of a layer."""
        return [
            *fused(
                f"{layer}.self_attn.qkv_proj",
                [f"{ours}/attention/{name}" for name in ("query", "key", "value")],
                bias=stack.has_attention_biases,
            ),
            *linear(f"{layer}.self_attn.o_proj", f"{ours}/attention/out", bias=stack.has_attention_output_bias),
            *fused(f"{layer}.mlp.gate_up_proj", [f"{ours}/mlp/{name}" for name in ("gate", "up")], bias=stack.biases),
            *linear(f"{layer}.mlp.down_proj", f"{ours}/mlp/down", bias=stack.biases),
        ]


def _read_rotary(options: Options) -> Rotary:
    """Return the rotary positions. original_max_position_embeddings is an option next to rope_scaling.

    Raises UserError if they are neither plain nor longrope.
    """
    scaling = {**options.group("rope_scaling"), **options.group("rope_parameters")}
    kind = scaling.pop("rope_type", None) or scaling.get("type") or "default"
    scaling.pop("type", None)
    original = options.size("original_max_position_embeddings", 4096)
    if kind in _LONG:
        kind, scaling["original_max_position_embeddings"] = "longrope", original
    elif kind != "default":
        known = ("default", "longrope")
        raise options.refuse("rope_scaling", kind, f"supported are {', '.join(known)}.{nearest(str(kind), known)}")
    values = {
        "rope_theta": options.number("rope_theta", 10_000.0),
        "rope_scaling": {"rope_type": kind, **scaling},
        "max_position_embeddings": options.size("max_position_embeddings", 4096),
    }
    share = options.number("partial_rotary_factor", 1.0)
    return read_rotary(Options(values, where=options.where), share=share)


def _rotary_options(stack: StackConfig) -> dict[str, Any]:
    """Return the options of config.json for `_read_rotary`, in the form of the published files: transformers 4 reads no other one."""
    rotary = stack.rotary
    plain = {"rope_theta": rotary.base, "rope_scaling": None, "partial_rotary_factor": rotary.share}
    if rotary.scaling == "none":
        return plain
    scaling: dict[str, Any] = {"type": "longrope"}
    scaling |= {"short_factor": list(rotary.short_factors), "long_factor": list(rotary.long_factors)}
    # transformers computes the factor from the lengths.
    if rotary.factor != max(stack.max_length / rotary.original_length, 1.0):
        scaling["factor"] = rotary.factor
    if rotary.attention_factor is not None:
        scaling["attention_factor"] = rotary.attention_factor
    return {**plain, "rope_scaling": scaling, "original_max_position_embeddings": rotary.original_length}
