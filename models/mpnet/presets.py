"""Sizes of MPNet."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t.models.bert.presets import bert
from t2t.models.encoder import EncoderConfig
from t2t.models.preset import Preset

VOCAB_SIZE = 30_527
"""BERT's vocabulary and five special tokens."""
OFFSET = 2
"""Number of unused rows before the learned position 0. It does not depend on the id of padding."""
BUCKETS, DISTANCE = 32, 128
"""Number of buckets of relative positions, and the distance from which all share the last one."""


def mpnet(
    *, num_layers: int, d_model: int, num_heads: int, vocab_size: int = VOCAB_SIZE, **overrides: Any
) -> EncoderConfig:
    """Return the configuration of an MPNet of any size, with the masked-LM head and without pooler.

    overrides: any other field of EncoderConfig or of StackConfig, and the arguments of `t2t.models.bert.bert`.
    """
    fields: dict[str, Any] = {
        "types": 0,
        "norm_epsilon": 1e-5,
        "position_offset": OFFSET,
        "positions": "relative",
        "learned_positions": True,
        "buckets": BUCKETS,
        "max_distance": DISTANCE,
        **overrides,
    }
    return bert(num_layers=num_layers, d_model=d_model, num_heads=num_heads, vocab_size=vocab_size, **fields)


def sized(size: str, **overrides: Any) -> EncoderConfig:
    """Return MPNet "base". It is the only published size."""
    num_layers, d_model, num_heads = _SIZES[size]
    return mpnet(**{"num_layers": num_layers, "d_model": d_model, "num_heads": num_heads, **overrides})


_SIZES = {"base": (12, 768, 12)}

PRESETS: dict[str, Preset] = {
    "mpnet:base": Preset(
        config=partial(sized, "base"),
        published=109_000_000,
        rounding=1_000_000,
        source="PaddleNLP's table of pretrained models: 12 layers, width 768, 12 heads, 109M parameters",
        besides={
            "without the pooler": -(768 * 768 + 768),
            "with the masked-LM head: dense layer, norm, a bias for each vocabulary entry": 768 * 768
            + 3 * 768
            + VOCAB_SIZE,
        },
    )
}
