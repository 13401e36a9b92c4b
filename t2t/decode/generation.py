"""From prompts to generated ids, compiled once for each shape."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from t2t.decode import beam, sampling
from t2t.decode.config import Beam, Decoding, Greedy, Sampling
from t2t.errors import UserError
from t2t.nn.model import Model
from t2t.types import Batch, Params, Tokens


@struct.dataclass
class Generated:
    """Generated tokens, without their prompts.

    ids:    N sequences a prompt; only 0 after EOS, and no padding before it.
    scores: summed log-probabilities under the model; from `Beam`, divided by the length penalty. Best first from `Beam`, in
            the order of drawing from `Sampling`.
    """

    ids: Int[Array, "B N L"]
    scores: Float[Array, "B N"]


def prompt(*, encoder: Tokens | None = None, decoder: Tokens) -> Batch:
    """Return the Batch that `generate` wants: tokens and no targets. Each [B L], padded at the end."""
    shape = decoder.ids.shape
    return Batch(encoder=encoder, decoder=decoder, targets=jnp.zeros(shape, jnp.int32), weights=jnp.zeros(shape))


def generate(
    model: Model,
    params: Params,
    batch: Batch,
    decoding: Decoding,
    *,
    length: int,
    eos_id: int | tuple[int, ...],
    key: jax.Array | None = None,
    vocab_size: int | None = None,
    pad_id: int | None = 0,
) -> Generated:
    """Continue each row's decoder prompt by at most `length` tokens, EOS included.

    batch:      encoder tokens (encoder-decoder) and decoder prompts, padded at the end, of any lengths; targets are not read. A
                row with an empty prompt yields padding and a score of 0.
    eos_id:     what ends a sequence, or several of which any does.
    key:        for `Sampling` alone: one random key, or one a row [B], with which a row's draws do not depend on its neighbours.
    vocab_size: ids from here on are never generated (a model's vocabulary may be padded).
    pad_id:     padding, which is never generated; None where every id is a word.

    Compiled anew for each shape of the batch, `length`, `decoding` and model; callers keep the shapes few. Where there is room for many positions, the
    cache grows as it fills (`rooms`), and waits for the device each time. Parameters may have any sharding. Raises UserError where the positions do not suffice, and ValueError for a batch without prompts or missing keys.
    """
    if batch.decoder is None:
        raise ValueError("the batch has no decoder prompt: an encoder generates nothing, see fill_mask")
    if length < 1:
        raise UserError(f"length {length} to generate must be at least 1.")
    room, limit = batch.decoder.ids.shape[1] + length - 1, model.config.max_length
    if limit is not None and room > limit:
        raise UserError(
            f"a prompt of {batch.decoder.ids.shape[1]} tokens and {length} more do not fit the model's {limit} positions."
            f" At most {max(limit - batch.decoder.ids.shape[1] + 1, 0)} can be generated."
        )
    if isinstance(decoding, Sampling):
        if key is None:
            raise ValueError("sampling needs a random key")
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            raise ValueError("the random key must be a typed one, from jax.random.key")
    elif not isinstance(decoding, Greedy | Beam):
        raise ValueError(f"decoding must be Greedy, Sampling or Beam, not {type(decoding).__name__}")
    else:
        key = None
    how = _How(model, decoding, length, all_ends(eos_id), vocab_size, pad_id)
    # Within another trace nothing is known of what the rows hold: one cache for all positions.
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, batch, key)))
    first, *larger = (room,) if traced else rooms(batch.decoder.ids.shape[1], room)
    if not larger:
        return _whole(how, params, batch, key)
    state, goes_on, made = _first(how, first, params, batch, key)
    for size in larger:
        if not bool(goes_on):
            break
        state = _grown(model, size, state)
        state, goes_on, made = _further(how, size, params, batch, key, state)
    return made


def all_ends(eos_id: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the ids that end a sequence as a tuple, where there may be one."""
    return (eos_id,) if isinstance(eos_id, int) else eos_id


ALWAYS_WHOLE, LEAST = 256, 128
"""Positions up to which a cache has room for all from the start, since another program costs more to compile than it saves; and what sizes are multiples of."""


def rooms(prompt: int, room: int) -> tuple[int, ...]:
    """Return the room that a cache has one after the other, up to `room` positions: about an eighth of it, a half, all.

    A step of decoding reads the whole cache, filled or not. Each size is a program of its own, compiled when a row first gets so far; sizes that leave
    little behind the prompt, or are hardly less than the whole, are left out.
    """
    if room <= ALWAYS_WHOLE:
        return (room,)
    shares = [-(-room // (share * LEAST)) * LEAST for share in (8, 2)]
    return (*(size for size in shares if prompt + LEAST // 2 <= size <= 0.75 * room), room)


class _How(NamedTuple):
    """What a program is compiled for."""

    model: Model
    decoding: Greedy | Sampling | Beam
    length: int
    ends: tuple[int, ...]
    vocab_size: int | None
    pad_id: int | None

    def search(self, params: Params, batch: Batch, key: jax.Array | None) -> beam.Search | sampling.Draw:
        """Return the search, within a trace."""
        vocab = jnp.arange(self.model.config.vocab_size)
        forbidden = vocab == (-1 if self.pad_id is None or self.pad_id in self.ends else self.pad_id)
        if self.vocab_size is not None:
            forbidden = forbidden | (vocab >= self.vocab_size)
        common: dict[str, Any] = {"length": self.length, "ends": self.ends, "forbidden": forbidden}
        if isinstance(self.decoding, Beam):
            return beam.Search(model=self.model, params=params, decoding=self.decoding, **common)
        if key is not None:
            assert batch.decoder is not None
            if key.ndim == 0:
                key = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch.decoder.ids.shape[0]))
            key = sampling.keys_of_rows(key, self.decoding.outputs)
        return sampling.Draw(model=self.model, params=params, decoding=self.decoding, keys=key, **common)

    def until(self, batch: Batch, room: int) -> int:
        """Return how many tokens a row may have whose cache has room for `room` positions: the last of them need not be in it."""
        assert batch.decoder is not None
        return min(self.length, room - batch.decoder.ids.shape[1] + 1)


@partial(jax.jit, static_argnums=0)
def _whole(how: _How, params: Params, batch: Batch, key: jax.Array | None) -> Generated:
    """Generate all with one cache."""
    assert batch.decoder is not None
    search: Any = how.search(params, batch, key)
    begun = search.begin(batch, batch.decoder.ids.shape[1] + how.length - 1)
    return Generated(*search.finish(search.advance(begun, how.length)))


@partial(jax.jit, static_argnums=(0, 1))
def _first(
    how: _How, room: int, params: Params, batch: Batch, key: jax.Array | None
) -> tuple[Any, Bool[Array, ""], Generated]:
    """Generate what a cache of `room` positions holds; also return where the search stands and whether it goes on."""
    search: Any = how.search(params, batch, key)
    return _advanced(search, search.begin(batch, room), how.until(batch, room))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=5)
def _further(
    how: _How, room: int, params: Params, batch: Batch, key: jax.Array | None, state: Any
) -> tuple[Any, Bool[Array, ""], Generated]:
    """Go on from `state`, whose cache has `room` positions."""
    return _advanced(how.search(params, batch, key), state, how.until(batch, room))


def _advanced(search: Any, state: Any, until: int) -> tuple[Any, Bool[Array, ""], Generated]:
    state = search.advance(state, until)
    return state, search.goes_on(state), Generated(*search.finish(state))


@partial(jax.jit, static_argnums=(0, 1))
def _grown(model: Model, room: int, state: Any) -> Any:
    return state._replace(cache=model.grow(state.cache, room))
