"""Sizes of RetNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.errors import UserError
from t2t.models.config import LayerOptions, StackConfig
from t2t.models.decoder import DecoderConfig
from t2t.models.preset import Preset, split_overrides
from t2t.nn.recurrent.retention import RetentionConfig

HEAD_DIM = 256
"""Width of a head's queries and keys in every published size."""
VOCAB_SIZE = 50_257
"""GPT-2's vocabulary. The paper does not give the size of its own."""


def retnet(
    *,
    num_layers: int,
    d_model: int,
    head_dim: int = HEAD_DIM,
    chunk: int | None = 256,
    vocab_size: int = VOCAB_SIZE,
    **overrides: Any,
) -> DecoderConfig:
    """Return the configuration of a RetNet of any size.

    Queries and keys have the width of the stack, values and feed-forward layers twice this width, so a layer has 12 d_model ** 2 parameters, as many as one of a
    transformer (section 3.1).

    head_dim:  width of a head's queries and keys. It must divide `d_model`.
    chunk:     length of a chunk in training, see `RetentionConfig`.
    overrides: any other field of DecoderConfig or of StackConfig.

    Raises:
        UserError: `head_dim` does not divide `d_model`, or a field is unknown.
    """
    if d_model % head_dim:
        near = [n for n in range(1, d_model + 1) if d_model % n == 0]
        best = min(near, key=lambda n: abs(n - head_dim))
        raise UserError(f"head_dim is {head_dim}, which does not divide d_model = {d_model}. Nearest: {best}.")
    heads = d_model // head_dim
    mixer = RetentionConfig(num_heads=heads, key_dim=head_dim, value_dim=2 * head_dim, chunk=chunk)
    top, stacks = split_overrides(DecoderConfig, overrides)
    stack: dict[str, Any] = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": heads,
        "head_dim": head_dim,
        "d_ff": 2 * d_model,
        "max_length": 2048,
        "activation": "gelu",
        "norm": "layer",
        "norm_epsilon": 1e-6,
        "positions": "none",
        "init": "normal",
        "init_std": 0.02,
        "init_residual": True,
        "pattern": (LayerOptions(mixer=mixer),),
        **stacks,
    }
    return DecoderConfig(**{"vocab_size": vocab_size, "decoder": StackConfig(**stack), "embedding_std": 0.02, **top})


_SIZES = {"1.3b": (24, 2048), "2.7b": (32, 2560), "6.7b": (32, 4096)}


def sized(size: str, **overrides: Any) -> DecoderConfig:
    """Return a published size: "1.3b", "2.7b" or "6.7b"."""
    num_layers, d_model = _SIZES[size]
    return retnet(**{"num_layers": num_layers, "d_model": d_model, **overrides})


_LAYERS = {"1.3b": 1_207_959_552, "2.7b": 2_516_582_400, "6.7b": 6_442_450_944}
"""Parameters of the matrices of all layers: 12 d_model ** 2 for each (section 3.1)."""


def _besides(size: str) -> dict[str, int]:
    num_layers, d_model = _SIZES[size]
    return {"embeddings of GPT-2's vocabulary": VOCAB_SIZE * d_model, "layer norms": (4 * num_layers + 2) * d_model}


PRESETS: dict[str, Preset] = {
    f"retnet:{size}": Preset(
        config=partial(sized, size),
        published=count,
        source="Sun et al. 2023, table 2 and section 3.1, without embeddings and norms",
        besides=_besides(size),
    )
    for size, count in _LAYERS.items()
}
