"""What attention derives from the tokens once for all layers: masks, relative biases, rotary angles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.attention.call import Bias
from t2t.nn.masks import Mask
from t2t.nn.mixers import Context
from t2t.nn.relative import RelativeBias
from t2t.nn.rotary import RotaryAngles
from t2t.sharding import constrain


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the attention layers of a stack have in common in one pass.

    mask:  of the tokens among themselves; in a step, of one token a row on the row's own cache.
    bias:  relative bias on those logits, or None.
    angles: what rotary positions turn queries and keys by, or None where positions are not rotary.
    prompt_mask: in a step of hypotheses on one prompt, of the rows on that prompt; None otherwise.
    prompt_bias: relative bias on those logits, or None.
    """

    mask: Mask
    bias: Float[Array, "#B H q k"] | Bias | None = None
    angles: RotaryAngles | None = None
    prompt_mask: Mask | None = None
    prompt_bias: Float[Array, "B H 1 k"] | None = None


def of_rows(
    context: Context, *, window: int | None, relative: RelativeBias | None, by_block: bool, angles: RotaryAngles | None
) -> Inputs:
    """Return the inputs of a pass over whole rows. by_block: the bias is made a block of queries at a time."""
    length = context.segments.shape[1]
    causal = not context.bidirectional
    mask = Mask(
        queries=context.segments,
        keys=context.segments,
        index=whole_rows(length) if causal or window is not None else None,
        prefix=context.prefix,
        causal=causal,
        window=window,
        self_attention=True,
    )
    return Inputs(mask=mask, bias=_bias(relative, length, by_block), angles=angles)


def of_step(
    context: Context, *, window: int | None, relative: RelativeBias | None, by_block: bool, angles: RotaryAngles | None
) -> Inputs:
    """Return the inputs of a step."""
    place = context.index
    assert place is not None, "a step needs each row's index"
    assert context.room is not None, "a step needs the room that states have"
    own = context.segments
    # All before a token is seen anyhow, a prefix too, but for what is outside of its window.
    prefix = None if window is None else context.prefix
    # A row's tokens stand without gaps from 0 to `place`, so that the causal mask alone hides what is not filled yet.
    mask = Mask(queries=own, keys=context.room, index=place[:, None], causal=True, window=window)
    bias = None if relative is None else relative.at(place, context.room.shape[1])
    if context.prompt is None:
        if prefix is not None:
            mask = dataclasses.replace(
                mask, prefix=jnp.pad(prefix, ((0, 0), (0, context.room.shape[1] - prefix.shape[1])))
            )
        return Inputs(mask=mask, bias=bias, angles=angles)
    at = context.positions
    assert at is not None, "a step on a shared prompt needs the tokens' positions"
    prompt_mask = Mask(queries=own, keys=context.prompt, index=at, prefix=prefix, causal=True, window=window)
    before = None if relative is None else relative.at(at[:, 0], context.prompt.shape[1])
    return Inputs(mask=mask, bias=bias, angles=angles, prompt_mask=prompt_mask, prompt_bias=before)


def on_memory(context: Context) -> Mask:
    """Return the mask of the tokens on the encoder's."""
    keys = context.memory_segments
    assert keys is not None, "cross attention needs the segments of the encoder's tokens"
    # In a step several rows in a row may share one of the encoder's: all that they see is its tokens.
    return Mask(queries=context.segments if context.index is None else jnp.ones_like(keys[:, :1]), keys=keys)


def whole_rows(length: int) -> Int[Array, "1 L"]:
    """Return the index of each token of a row, the same for all rows."""
    return jax.lax.iota(jnp.int32, length)[None]


def _bias(relative: RelativeBias | None, length: int, by_block: bool) -> jax.Array | Bias | None:
    if relative is None:
        return None
    if by_block:
        return lambda start, rows: relative.block(start, rows, length)
    return constrain(relative.block(0, length, length), (None, "heads", "length", None))
