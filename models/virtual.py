"""Virtual tokens before the tokens of a batch (prompt tuning, Lester et al. 2021)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from flax import nnx

from t2t.errors import UserError
from t2t.nn.embeddings import Embedding
from t2t.nn.model import ModelConfig
from t2t.nn.parameters import modules
from t2t.types import Array, Batch, Tokens


def virtual_tokens(network: nnx.Module, config: ModelConfig) -> int:
    """Return the number of virtual tokens that a network has. Raises UserError if this kind of model cannot have them."""
    count = sum(table.virtual.count for table in modules(network, Embedding).values() if table.virtual is not None)
    if count and (config.output != "tokens" or config.can("detect")):
        raise UserError(
            "adapter.kind is 'prompt' (--adapter.kind): virtual tokens are for models that predict tokens. Nearest: lora."
        )
    return count


def on_outputs(count: int, config: ModelConfig) -> int:
    """Return how many of the first outputs are those of virtual tokens: none in an encoder-decoder, whose encoder has them."""
    return 0 if set(config.sides) == {"encoder", "decoder"} else count


def prepended(batch: Batch, count: int, config: ModelConfig) -> Batch:
    """Return the batch with virtual tokens, ids from -1 down, before the tokens of the encoder, or of a decoder alone. A row holds one example."""
    if not count:
        return batch
    side = "encoder" if "encoder" in config.sides else "decoder"
    tokens: Tokens = getattr(batch, side)
    rows = tokens.ids.shape[0]

    def before(values: Array, more: Array) -> Array:
        return jnp.concatenate([jnp.broadcast_to(more, (rows, count)).astype(jnp.int32), jnp.asarray(values)], axis=1)

    places = jnp.arange(count)[None]
    segments = (jnp.asarray(tokens.segments)[:, :1] > 0).astype(jnp.int32)  # rows of padding stay padding
    longer = Tokens(
        ids=before(tokens.ids, -1 - places),
        positions=before(jnp.asarray(tokens.positions) + count, places),
        segments=before(tokens.segments, segments),
        types=None if tokens.types is None else before(tokens.types, jnp.zeros_like(places)),
        prefix=None if tokens.prefix is None else before(tokens.prefix, segments),
    )
    if side == "encoder":
        return dataclasses.replace(batch, encoder=longer)
    return dataclasses.replace(batch, decoder=longer)
