"""From prompts to generated ids, compiled once for each shape."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

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

    Compiled anew for each shape of the batch, `length`, `decoding` and model; callers keep the shapes few. Parameters may have
    any sharding. Raises UserError where the positions do not suffice, and ValueError for a batch without prompts or missing keys.
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
    return _generate(model, decoding, length, all_ends(eos_id), vocab_size, pad_id, params, batch, key)


def all_ends(eos_id: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the ids that end a sequence as a tuple, where there may be one."""
    return (eos_id,) if isinstance(eos_id, int) else eos_id


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _generate(
    model: Model,
    decoding: Greedy | Sampling | Beam,
    length: int,
    ends: tuple[int, ...],
    vocab_size: int | None,
    pad_id: int | None,
    params: Params,
    batch: Batch,
    key: jax.Array | None,
) -> Generated:
    assert batch.decoder is not None
    vocab = jnp.arange(model.config.vocab_size)
    forbidden = vocab == (-1 if pad_id is None or pad_id in ends else pad_id)
    if vocab_size is not None:
        forbidden = forbidden | (vocab >= vocab_size)
    if isinstance(decoding, Beam):
        ids, scores = beam.search(model, params, batch, decoding, length=length, ends=ends, forbidden=forbidden)
    else:
        if key is not None and key.ndim == 0:
            key = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch.decoder.ids.shape[0]))
        ids, scores = sampling.search(
            model, params, batch, decoding, length=length, ends=ends, forbidden=forbidden, keys=key
        )
    return Generated(ids=ids, scores=scores)
