"""Sizes of ELECTRA."""

from __future__ import annotations

from functools import partial
from typing import Any

from t2t import former_names
from t2t.errors import UserError
from t2t.models.bert.presets import STACK, VOCAB_SIZE
from t2t.models.config import StackConfig
from t2t.models.electra.config import ElectraConfig
from t2t.models.preset import Preset, split_overrides


@former_names.sizes
def electra(
    *,
    num_layers: int,
    d_model: int,
    num_heads: int,
    d_ff: int | None = None,
    divisor: int = 4,
    max_length: int = 512,
    vocab_size: int = VOCAB_SIZE,
    **overrides: Any,
) -> ElectraConfig:
    """Return the configuration of an ELECTRA of any size. The sizes are those of the discriminator, which is a BERT.

    d_ff:       inner width of the feed-forward layers; None means 4 * d_model.
    divisor:    the generator's width, feed-forward width and heads are the discriminator's divided by this. Its depth is the same.
    max_length: number of learned positions.
    overrides:  any other field of ElectraConfig (such as `embedding_size`) or, for both stacks, of StackConfig.

    Raises:
        UserError: a field is unknown, or values contradict each other.
    """
    if divisor < 1 or d_model % divisor:
        best = max(n for n in range(1, max(divisor, 1) + 1) if d_model % n == 0)
        raise UserError(
            f"the generator's divisor {divisor} does not divide model.d_model = {d_model}. Nearest: {best}."
        )
    top, stacks = split_overrides(ElectraConfig, overrides)
    d_ff = 4 * d_model if d_ff is None else d_ff

    def stack(d_model: int, d_ff: int, num_heads: int) -> StackConfig:
        fields: dict[str, Any] = {
            "num_layers": num_layers,
            "d_model": d_model,
            "num_heads": num_heads,
            "d_ff": d_ff,
            "max_length": max_length,
            **STACK,
            **stacks,
        }
        return StackConfig(**fields)

    return ElectraConfig(
        **{
            "vocab_size": vocab_size,
            "encoder": stack(d_model, d_ff, num_heads),
            "generator": stack(d_model // divisor, max(1, d_ff // divisor), max(1, num_heads // divisor)),
            "dropout": 0.1,
            **top,
        }
    )


#         num_layers d_model num_heads embedding divisor
_SIZES = {
    "small": (12, 256, 4, 128, 4),
    "base": (12, 768, 12, None, 3),
    "large": (24, 1024, 16, None, 4),
}


@former_names.sizes
def sized(size: str, **overrides: Any) -> ElectraConfig:
    """Return ELECTRA "small", "base" or "large" (tables 1 and 6 of the paper), uncased.

    The published counts are those of the discriminator only.
    """
    num_layers, d_model, num_heads, embedding, divisor = _SIZES[size]
    sizes = {
        "num_layers": num_layers,
        "d_model": d_model,
        "num_heads": num_heads,
        "embedding_size": embedding,
        "divisor": divisor,
    }
    return electra(**{**sizes, **overrides})


def _generator(size: str) -> int:
    """Return the number of parameters that only the generator has."""
    num_layers, whole, _, embedding, divisor = _SIZES[size]
    d_model, width = whole // divisor, embedding or whole
    block = 4 * (d_model * d_model + d_model) + 2 * 4 * d_model * d_model + 5 * d_model + 4 * d_model
    widen = 0 if d_model == width else width * d_model + d_model
    return widen + num_layers * block + d_model * width + 3 * width + VOCAB_SIZE


def _preset(size: str, published: int, rounding: int) -> Preset:
    return Preset(
        config=partial(sized, size),
        published=published,
        rounding=rounding,
        source="google-research/electra, the discriminators",
        besides={"with the generator, without the embeddings that it shares": _generator(size)},
    )


_MILLION = 1_000_000

PRESETS: dict[str, Preset] = {
    "electra:small": _preset("small", 14 * _MILLION, _MILLION),
    "electra:base": _preset("base", 110 * _MILLION, 10 * _MILLION),
    "electra:large": _preset("large", 335 * _MILLION, _MILLION),
}
