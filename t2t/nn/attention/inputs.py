"""Inputs of attention that are computed once for all layers: masks, relative biases and rotary angles."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from t2t.nn.attention.call import Bias
from t2t.nn.attention.state import held, slots
from t2t.nn.masks import Mask
from t2t.nn.mixers import Context
from t2t.nn.relative import RelativeBias
from t2t.nn.rotary import RotaryAngles
from t2t.nn.sparse import Sparse
from t2t.sharding import constrain


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs that the attention layers of a stack share in one pass.

    mask:   self-attention mask; in a step, of one query per row over the row's own cache.
    bias:   relative bias on those logits, or None.
    vectors: vectors of relative positions of disentangled attention, or None.
    angles: angles of rotary positions, or None.
    prompt_mask: in a step of hypotheses that share a prompt, the mask over that prompt; otherwise None.
    prompt_bias: relative bias on the logits of the prompt, or None.
    """

    mask: Mask
    bias: Float[Array, "#B H q k"] | Bias | None = None
    vectors: Float[Array, "N D"] | None = None
    angles: RotaryAngles | None = None
    prompt_mask: Mask | None = None
    prompt_bias: Float[Array, "B H 1 k"] | None = None


def row_inputs(
    context: Context,
    *,
    window: int | None,
    exact_window: bool,
    sparse: Sparse | None,
    relative: RelativeBias | None,
    by_block: bool,
    angles: RotaryAngles | None,
) -> Inputs:
    """Return the inputs of a pass over whole rows. by_block: compute the bias for a block of queries at a time."""
    length = context.segments.shape[1]
    causal = not context.bidirectional
    index = whole_rows(length) if causal or window is not None else None
    if sparse is not None:
        assert context.positions is not None, "a sparsity pattern needs the tokens' positions"
        index = context.positions
    mask = Mask(
        queries=context.segments,
        keys=context.segments,
        index=index,
        key_index=None if sparse is None else index,
        prefix=context.prefix,
        causal=causal,
        window=window,
        exact_window=exact_window,
        sparse=sparse,
        self_attention=True,
    )
    return Inputs(mask=mask, bias=_bias(relative, length, by_block), angles=angles)


def step_inputs(
    context: Context,
    *,
    window: int | None,
    sparse: Sparse | None,
    relative: RelativeBias | None,
    angles: RotaryAngles | None,
) -> Inputs:
    """Return the inputs of a step. See `bounded` for the caches that the masks are over."""
    index = context.index
    assert index is not None, "a step needs each row's index"
    assert context.room is not None, "a step needs the room of its states"
    queries, room, prompt = context.segments, context.room, context.prompt
    position = index[:, None]
    if prompt is not None:
        assert context.positions is not None, "a step on a shared prompt needs the tokens' positions"
        position = context.positions
    # The row's own cache begins after the prompt, if that is shared.
    begin = position - index[:, None]
    ring, places = bounded(context, window), jnp.arange(room.shape[1])[None]
    if ring is not None:
        places = held(index, slots(ring, room.shape[1]))
        room = (places >= 0).astype(jnp.int32)
    # The tokens of a row fill positions 0 to `index` without gaps, so the causal mask also hides the unused positions.
    mask = Mask(
        queries=queries, keys=room, index=position, key_index=begin + places, causal=True, window=window, sparse=sparse
    )
    bias = None if relative is None else relative.at(index, places)
    # A token sees all earlier tokens, including the prefix. Only with a window must the prefix be marked.
    prefix = None if window is None else context.prefix
    if prompt is None:
        if prefix is not None:
            mask = dataclasses.replace(mask, prefix=jnp.pad(prefix, ((0, 0), (0, room.shape[1] - prefix.shape[1]))))
        return Inputs(mask=mask, bias=bias, angles=angles)
    places = jnp.arange(prompt.shape[1])[None]
    if ring is not None:
        places = held(begin[:, 0] - 1, slots(ring, prompt.shape[1]))
        prompt = (places >= 0).astype(jnp.int32)
    prompt_mask = dataclasses.replace(mask, keys=prompt, key_index=places, prefix=prefix)
    prompt_bias = None if relative is None else relative.at(position[:, 0], places)
    return Inputs(mask=mask, bias=bias, angles=angles, prompt_mask=prompt_mask, prompt_bias=prompt_bias)


def bounded(context: Context, window: int | None) -> int | None:
    """Return the window if the cache holds no more tokens than it, a `WindowKeyValues`; None if the cache holds all tokens, a `KeyValues`.

    A prefix that all tokens see stays in sight, so its cache holds all.
    """
    return window if context.prefix is None else None


def memory_mask(context: Context) -> Mask:
    """Return the mask of the tokens over the encoder's tokens."""
    keys = context.memory_segments
    assert keys is not None, "cross attention needs the segments of the encoder's tokens"
    # In a step, several consecutive rows may share a row of the encoder. They all see all of its tokens.
    return Mask(queries=context.segments if context.index is None else jnp.ones_like(keys[:, :1]), keys=keys)


def whole_rows(length: int) -> Int[Array, "1 L"]:
    """Return the index of each token in its row, the same for all rows."""
    return jax.lax.iota(jnp.int32, length)[None]


def _bias(relative: RelativeBias | None, length: int, by_block: bool) -> jax.Array | Bias | None:
    if relative is None:
        return None
    if by_block:
        return lambda start, queries: relative.block(start, queries.shape[1], length)
    return constrain(relative.block(0, length, length), (None, "heads", "length", None))
