"""Generate ids from prompts. Each shape is compiled once."""

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

    ids:    N sequences per prompt. After EOS all ids are 0; before it there is no padding.
    scores: sums of log-probabilities under the model. `Beam` divides them by the length penalty and returns the best sequence first.
            `Sampling` returns the sequences in the order of sampling.
    """

    ids: Int[Array, "B N L"]
    scores: Float[Array, "B N"]


def prompt(*, encoder: Tokens | None = None, decoder: Tokens) -> Batch:
    """Return a batch for `generate`: tokens without targets, [B L], padded at the end."""
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

    batch:      encoder tokens (encoder-decoder models) and decoder prompts of any lengths, padded at the end. Targets are ignored. A row with
                an empty prompt gives padding and a score of 0.
    eos_id:     the end id, or several end ids.
    key:        random key, only for `Sampling`. Pass one key per row [B] to make the samples of a row independent of the other rows.
    vocab_size: ids from this number on are never generated: the vocabulary of a model may be padded.
    pad_id:     padding id, never generated. None if the vocabulary has no padding.

    Each combination of batch shape, `length`, `decoding` and model is compiled once: use few shapes. A large cache grows while it fills (see
    `rooms`); each growth waits for the device. Parameters may have any sharding.

    Raises UserError if the model has too few positions, and ValueError if the batch has no prompts or the key is missing.
    """
    if batch.decoder is None:
        raise ValueError("the batch has no decoder prompt: an encoder cannot generate, use fill_mask")
    if length < 1:
        raise UserError(f"length {length} is less than 1. Nearest: 1.")
    room, limit = batch.decoder.ids.shape[1] + length - 1, model.config.max_length
    if limit is not None and room > limit:
        raise UserError(
            f"a prompt of {batch.decoder.ids.shape[1]} tokens and {length} more do not fit the model's {limit} positions."
            f" At most {max(limit - batch.decoder.ids.shape[1] + 1, 0)} tokens can be generated."
        )
    if isinstance(decoding, Sampling):
        if key is None:
            raise ValueError("Sampling needs a random key")
        if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            raise ValueError("the random key must be a typed key from jax.random.key")
    elif not isinstance(decoding, Greedy | Beam):
        raise ValueError(f"decoding must be Greedy, Sampling or Beam, not {type(decoding).__name__}")
    else:
        key = None
    how = _How(model, decoding, length, all_ends(eos_id), vocab_size, pad_id)
    # Inside another trace the state of the search is unknown: use one cache for all positions.
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, batch, key)))
    first, *larger = (room,) if traced else rooms(batch.decoder.ids.shape[1], room)
    if not larger:
        return _whole(how, params, batch, key)
    state, unfinished, generated = _first(how, first, params, batch, key)
    for size in larger:
        if not bool(unfinished):
            break
        state = _grown(model, size, state)
        state, unfinished, generated = _further(how, size, params, batch, key, state)
    return generated


def all_ends(eos_id: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return one end id, or several, as a tuple."""
    return (eos_id,) if isinstance(eos_id, int) else eos_id


ALWAYS_WHOLE, LEAST = 256, 128
"""Largest cache (in positions) that is not grown, since compiling another program costs more than it saves; and the multiple of which cache sizes are."""


def rooms(prompt: int, room: int) -> tuple[int, ...]:
    """Return the successive cache sizes, in positions, up to `room`: about an eighth of it, half of it, all.

    A decoding step reads the whole cache, whether filled or not. Each size needs its own program, compiled when a row first needs it.
    Sizes that leave little space after the prompt, or are almost `room`, are omitted.
    """
    if room <= ALWAYS_WHOLE:
        return (room,)
    sizes = [-(-room // (divisor * LEAST)) * LEAST for divisor in (8, 2)]
    return (*(size for size in sizes if prompt + LEAST // 2 <= size <= 0.75 * room), room)


class _How(NamedTuple):
    """Static arguments of a compiled program."""

    model: Model
    decoding: Greedy | Sampling | Beam
    length: int
    ends: tuple[int, ...]
    vocab_size: int | None
    pad_id: int | None

    def search(self, params: Params, batch: Batch, key: jax.Array | None) -> beam.Search | sampling.Draw:
        """Return the search. Call it inside a trace."""
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
        """Return how many tokens a cache of `room` positions allows a row to generate. The last token is not in the cache."""
        assert batch.decoder is not None
        return min(self.length, room - batch.decoder.ids.shape[1] + 1)


@partial(jax.jit, static_argnums=0)
def _whole(how: _How, params: Params, batch: Batch, key: jax.Array | None) -> Generated:
    """Generate all tokens with one cache."""
    assert batch.decoder is not None
    search: Any = how.search(params, batch, key)
    state = search.begin(batch, batch.decoder.ids.shape[1] + how.length - 1)
    return Generated(*search.finish(search.advance(state, how.length)))


@partial(jax.jit, static_argnums=(0, 1))
def _first(
    how: _How, room: int, params: Params, batch: Batch, key: jax.Array | None
) -> tuple[Any, Bool[Array, ""], Generated]:
    """Generate until a cache of `room` positions is full. Return the state, whether the search is unfinished, and the result so far."""
    search: Any = how.search(params, batch, key)
    return _advanced(search, search.begin(batch, room), how.until(batch, room))


@partial(jax.jit, static_argnums=(0, 1), donate_argnums=5)
def _further(
    how: _How, room: int, params: Params, batch: Batch, key: jax.Array | None, state: Any
) -> tuple[Any, Bool[Array, ""], Generated]:
    """Continue from `state`, whose cache has `room` positions."""
    return _advanced(how.search(params, batch, key), state, how.until(batch, room))


def _advanced(search: Any, state: Any, until: int) -> tuple[Any, Bool[Array, ""], Generated]:
    state = search.advance(state, until)
    return state, search.goes_on(state), Generated(*search.finish(state))


@partial(jax.jit, static_argnums=(0, 1))
def _grown(model: Model, room: int, state: Any) -> Any:
    return state._replace(cache=model.grow(state.cache, room))
