"""Conversion of Mamba and Mamba-2 to and from `transformers` (MambaForCausalLM, Mamba2ForCausalLM)."""

from __future__ import annotations

import math
from typing import Any

from t2t.export.family import Family, Options, Weights
from t2t.export.filters import convolution
from t2t.export.mapping import Entry, Transposed, fused, linear, normalised, same
from t2t.models.decoder import DecoderConfig
from t2t.models.mamba.presets import mamba, mamba2
from t2t.nn.mixers import MixerConfig
from t2t.nn.model import ModelConfig
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.nn.recurrent.time_steps import TimeSteps

_LAYER, _OURS = "backbone.layers.{layer}", "decoder/layers"
_NO_LIMITS = ([0.0, math.inf], [0.0, {"__float__": "Infinity"}])
"""The values of `time_step_limit` that limit nothing, as transformers 4 and 5 write them."""


class Mamba(Family):
    """Mamba."""

    name = "Mamba"
    model_types = ("mamba",)
    prefix = "backbone."

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        fields, mixer = _shared(options, state_size=16, layers=32, tied=True)
        d_model, expand = fields["d_model"], fields["expand"]
        # What the original code wrote, and how PyTorch computes the scan.
        options.must("d_inner", expand * d_model, why="it must be expand * hidden_size")
        options.must("d_model", d_model, why="hidden_size has another value")
        options.must("n_layer", fields["num_layers"], why="num_hidden_layers has another value")
        options.free("fused_add_norm", "ssm_cfg", "pad_vocab_size_multiple", "use_mambapy", "use_associative_scan")
        return mamba(dt_rank=_rank(options, d_model), mixer=mixer, **fields)

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        own = _mixer(config)
        if not isinstance(own, MambaConfig):
            return None
        assert isinstance(config, DecoderConfig)
        return {
            "architectures": ["MambaForCausalLM"],
            "model_type": "mamba",
            **_shared_options(config, own, own.inner),
            "intermediate_size": own.inner,
            "time_step_rank": own.dt_rank,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        own = _mixer(config)
        assert isinstance(own, MambaConfig)
        theirs, ours = f"{_LAYER}.mixer", f"{_OURS}/{own.name}"
        return [
            *_outer_entries(config, own),
            *fused(f"{theirs}.in_proj", (f"{ours}/x", f"{ours}/gate"), bias=own.biases),
            *convolution(f"{theirs}.conv1d", (f"{ours}/convolution",), bias=own.convolution_bias),
            *fused(f"{theirs}.x_proj", tuple(f"{ours}/{name}" for name in ("dt_down", "b", "c")), bias=False),
            *linear(f"{theirs}.dt_proj", f"{ours}/dt_up", bias=False),
            same(f"{theirs}.dt_proj.bias", f"{ours}/dt_bias"),
            same(f"{theirs}.A_log", f"{ours}/a_log"),
            same(f"{theirs}.D", f"{ours}/skip"),
            *linear(f"{theirs}.out_proj", f"{ours}/out", bias=own.biases),
        ]


class Mamba2(Family):
    """Mamba-2."""

    name = "Mamba-2"
    model_types = ("mamba2",)
    prefix = "backbone."

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        fields, mixer = _shared(options, state_size=128, layers=64, tied=False, width=4096)
        d_model, expand = fields["d_model"], fields["expand"]
        head_dim, num_heads = options.size("head_dim", 64), options.size("num_heads", 128)
        if num_heads * head_dim != expand * d_model:
            raise options.refuse(
                "num_heads", num_heads, f"num_heads * head_dim must be expand * hidden_size = {expand * d_model}"
            )
        limit = options.take("time_step_limit", _NO_LIMITS[0])
        if limit not in _NO_LIMITS:
            raise options.refuse("time_step_limit", limit, "a limit of time steps is not supported")
        # transformers applies the gate before the norm, whatever the option says, and Mamba-2 has no rank of time steps.
        options.free("norm_before_gate", "time_step_rank")
        mixer |= {
            "groups": options.size("n_groups", 8),
            "chunk": options.size("chunk_size", 256),
            "norm_epsilon": fields["norm_epsilon"],
        }
        return mamba2(head_dim=head_dim, mixer=mixer, **fields)

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        own = _mixer(config)
        if not isinstance(own, Mamba2Config):
            return None
        assert isinstance(config, DecoderConfig)
        return {
            "architectures": ["Mamba2ForCausalLM"],
            "model_type": "mamba2",
            **_shared_options(config, own, own.inner),
            "num_heads": own.num_heads,
            "head_dim": own.head_dim,
            "n_groups": own.groups,
            "chunk_size": own.chunk,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, DecoderConfig)
        own = _mixer(config)
        assert isinstance(own, Mamba2Config)
        theirs, ours = f"{_LAYER}.mixer", f"{_OURS}/{own.name}"
        products = tuple(f"{ours}/{name}" for name in ("gate", "x", "b", "c", "dt"))
        filters = tuple(f"{ours}/{name}_convolution" for name in ("x", "b", "c"))
        return [
            *_outer_entries(config, own),
            *fused(f"{theirs}.in_proj", products, bias=own.biases),
            *convolution(f"{theirs}.conv1d", filters, bias=own.convolution_bias),
            same(f"{theirs}.dt_bias", f"{ours}/dt_bias"),
            same(f"{theirs}.A_log", f"{ours}/a_log"),
            same(f"{theirs}.D", f"{ours}/skip"),
            *normalised(f"{theirs}.norm", f"{ours}/norm", bias=False),
            *linear(f"{theirs}.out_proj", f"{ours}/out", bias=own.biases),
        ]


def _shared(
    options: Options, *, state_size: int, layers: int, tied: bool, width: int = 768
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what both families read: arguments of `mamba` or `mamba2`, and fields of the mixer.

    state_size, layers, tied, width: values that `transformers` uses if config.json does not have them.
    """
    if options.activation("hidden_act", "silu") != "silu":
        raise options.refuse("hidden_act", options.take("hidden_act"), "only 'silu' is supported")
    # The type of the residual stream in half precision, initialization, and an option that transformers does not read.
    options.free("residual_in_fp32", "rescale_prenorm_residual", "time_step_scale", "time_step_init_scheme", "rms_norm")
    fields: dict[str, Any] = {
        "num_layers": options.size("num_hidden_layers", layers),
        "d_model": options.size("hidden_size", width),
        "expand": options.size("expand", 2),
        "vocab_size": options.size("vocab_size"),
        "norm_epsilon": options.number("layer_norm_epsilon", 1e-5),
        "init_std": options.number("initializer_range", 0.1),
        "tied": options.flag("tie_word_embeddings", tied),
    }
    inner = fields["expand"] * fields["d_model"]
    options.must("intermediate_size", inner, why="it must be expand * hidden_size")
    mixer = {
        "state_size": options.size("state_size", state_size),
        "convolution": options.size("conv_kernel", 4),
        "convolution_bias": options.flag("use_conv_bias", True),
        "biases": options.flag("use_bias", False),
        "time_steps": TimeSteps(
            low=options.number("time_step_min", 0.001),
            high=options.number("time_step_max", 0.1),
            floor=options.number("time_step_floor", 1e-4),
        ),
    }
    return fields, mixer


def _rank(options: Options, d_model: int) -> int:
    if options.take("time_step_rank", "auto") == "auto":
        return -(-d_model // 16)
    return int(options.size("time_step_rank"))


def _mixer(config: ModelConfig) -> MixerConfig | None:
    """Return the mixer of all layers of a decoder; None if it has other layers."""
    if not isinstance(config, DecoderConfig) or config.decoder.first or len(config.decoder.pattern) != 1:
        return None
    return config.decoder.pattern[0].mixer


def _shared_options(config: DecoderConfig, own: MambaConfig | Mamba2Config, inner: int) -> dict[str, Any]:
    stack = config.decoder
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": stack.d_model,
        "num_hidden_layers": stack.num_layers,
        "expand": max(inner // stack.d_model, 1),
        "state_size": own.state_size,
        "conv_kernel": own.convolution,
        "use_conv_bias": own.convolution_bias,
        "use_bias": own.biases,
        "hidden_act": "silu",
        "layer_norm_epsilon": stack.norm_epsilon,
        "time_step_min": own.time_steps.low,
        "time_step_max": own.time_steps.high,
        "time_step_floor": own.time_steps.floor,
        "initializer_range": stack.init_std,
        "tie_word_embeddings": config.tied,
    }


def _outer_entries(config: DecoderConfig, own: MixerConfig) -> list[Entry]:
    """Return the entries of the embeddings, the head and the norms."""
    copies = ("lm_head.weight",) if config.tied else ()
    table = [
        # The original code calls it embedding.
        same("backbone.embeddings.weight", "embeddings/token/table", "backbone.embedding.weight", *copies),
        *normalised(f"{_LAYER}.norm", f"{_OURS}/{own.name}_norm", bias=False),
        *normalised("backbone.norm_f", "decoder/final_norm", bias=False),
    ]
    return table if config.tied else [*table, Entry("lm_head.weight", ("lm_head/kernel",), Transposed())]
