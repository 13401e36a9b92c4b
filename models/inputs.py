"""Embeddings of token ids, and the head that computes logits."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.errors import UserError
from t2t.models.config import StackConfig
from t2t.models.transformer_config import TransformerConfig
from t2t.nn.adapters import Adaptable, Adapters, LowRank
from t2t.nn.dropout import Keys, dropout
from t2t.nn.embeddings import Embedding, sinusoids
from t2t.nn.initializers import ZEROS, Initializer, Normal, TruncatedNormal
from t2t.nn.linear import Linear, matmul
from t2t.nn.norms import norm
from t2t.nn.parameters import parameter
from t2t.sharding import constrain
from t2t.types import Tokens


def _table_init(stack: StackConfig, std: float) -> Initializer:
    return TruncatedNormal(std, exact=False) if stack.init == "truncated_normal" else Normal(std)


class Embeddings(nnx.Module):
    """The sum of token, position and type embeddings. Optionally normalized (BERT), and projected to the stack's width if they are narrower (ALBERT).

    wide_norm: project narrower embeddings before the norm, without a bias (DeBERTa).
    scale: factor on the token embeddings; None means that of the configuration.
    """

    def __init__(
        self,
        config: TransformerConfig,
        stack: StackConfig,
        *,
        types: int = 0,
        normed: bool = False,
        wide_norm: bool = False,
        scale: float | None = None,
    ) -> None:
        size = stack.d_model if config.embedding_size is None else config.embedding_size
        self.limit, self.offset = stack.limit, stack.position_offset
        self.dropout = config.dropout
        self.dtype = config.dtype
        self.scale = config.embedding_scale if scale is None else scale
        self.token = Embedding(
            config.vocab_size, size, axis="vocab", init=_table_init(stack, config.embedding_std), tied=config.tied
        )
        self.position = (
            Embedding(
                stack.max_length + stack.position_offset,
                size,
                axis="positions",
                init=_table_init(stack, config.position_std),
                decay=False,
            )
            if stack.has_learned_positions
            else None
        )
        self.sinusoidal = stack.positions == "sinusoidal"
        if self.sinusoidal and size % 2:
            raise UserError(
                f"model.positions is 'sinusoidal', and the embeddings have the odd width {size}; sines and cosines have half of it each. Nearest: {size + 1}."
            )
        self.type = (
            Embedding(types, size, axis="types", init=_table_init(stack, config.embedding_std)) if types else None
        )
        self.wide_norm = wide_norm
        width = stack.d_model if wide_norm else size
        self.norm = norm(stack.norm, width, stack.norm_epsilon) if normed else None
        self.widen = (
            None
            if config.embedding_size is None
            else Linear(size, stack.d_model, (None, "embed"), bias=not wide_norm, init=stack.kernel_init(size))
        )

    def __call__(self, tokens: Tokens, keys: Keys) -> Float[Array, "B L D"]:
        """Embed rows of tokens.

        Raises:
            UserError: the rows are longer than the number of learned positions.
        """
        return self.widened(self.narrow_rows(tokens, keys), keys)

    def narrow_rows(self, tokens: Tokens, keys: Keys) -> Float[Array, "B L E"]:
        """Embed rows of tokens in the width of the embeddings. Raises UserError if rows are longer than the number of learned positions."""
        self.check(tokens.ids.shape[1])
        types = None if tokens.types is None else jnp.asarray(tokens.types)
        return self.narrow(jnp.asarray(tokens.ids), jnp.asarray(tokens.positions), types, keys)

    def check(self, length: int) -> None:
        """Raise UserError if `length` is more than the number of learned positions."""
        if self.limit is not None and length > self.limit:
            raise UserError(
                f"a sequence of {length} tokens is longer than the model's {self.limit} learned positions (max_length). Nearest: {self.limit}."
            )

    def at(
        self, ids: Int[Array, "B L"], positions: Int[Array, "B L"], types: Int[Array, "B L"] | None, keys: Keys
    ) -> Float[Array, "B L D"]:
        """Embed tokens at the given positions. types: None means that all types are 0."""
        return self.widened(self.narrow(ids, positions, types, keys), keys)

    @jax.named_scope("embeddings")
    def narrow(
        self, ids: Int[Array, "B L"], positions: Int[Array, "B L"], types: Int[Array, "B L"] | None, keys: Keys
    ) -> Float[Array, "B L E"]:
        """Embed tokens like `at`, but in the width of the embeddings. With `wide_norm`, the norm and dropout come after the projection."""
        # The sum is in float32: otherwise each table adds its own rounding error.
        x = self.token(ids, jnp.float32)
        x = x if self.scale == 1.0 else x * self.scale
        if self.position is not None:
            x = x + self.position(positions + self.offset, jnp.float32, outside="clip")
        if self.sinusoidal:
            x = x + sinusoids(positions, x.shape[-1])
        if self.type is not None:
            x = x + self.type(jnp.zeros_like(ids) if types is None else types, jnp.float32)
        return x.astype(self.dtype) if self.wide_norm else self._finished(x, keys)

    def widened(self, x: Float[Array, "B L E"], keys: Keys) -> Float[Array, "B L D"]:
        """Project embeddings to the stack's width."""
        x = x if self.widen is None else self.widen(x)
        return constrain(self._finished(x, keys) if self.wide_norm else x, ("batch", "length", None))

    def _finished(self, x: Float[Array, "*B S"], keys: Keys) -> Float[Array, "*B S"]:
        """Apply the norm and dropout."""
        x = x if self.norm is None else self.norm(x)
        return dropout(x.astype(self.dtype), self.dropout, keys.next())


class Head(Adaptable):
    """Compute float32 logits, with the embedding table or with a separate kernel.

    size: width of the input; None means the width of the stack.
    bias: add a bias for each vocabulary entry (BERT).
    """

    def __init__(
        self, config: TransformerConfig, stack: StackConfig, *, size: int | None = None, bias: bool = False
    ) -> None:
        size = stack.d_model if size is None else size
        if config.tied and size != (config.embedding_size or stack.d_model):
            raise UserError(
                f"model.tied: logits cannot come from embeddings of width {config.embedding_size} (model.embedding_size); the stack's width is {size}."
                " Set model.tied to False."
            )
        self.scale = stack.d_model**-0.5 if config.scaled_head else 1.0
        self.softcap = config.final_softcap
        self.kernel = (
            None if config.tied else parameter((size, config.vocab_size), ("embed", "vocab"), stack.kernel_init(size))
        )
        self.bias = parameter((config.vocab_size,), ("vocab",), ZEROS, decay=False) if bias else None
        self.adapter: LowRank | Adapters | None = None

    def adaptable(self) -> Mapping[str, str]:
        """Return the separate kernel, see `Adaptable`."""
        return {} if self.kernel is None else {"": "kernel"}

    @jax.named_scope("head")
    def __call__(self, x: Float[Array, "*B D"], embeddings: Embeddings) -> Float[Array, "*B V"]:
        """Return the logits."""
        x = x * self.scale if self.scale != 1.0 else x
        if self.kernel is None:
            logits = embeddings.token.attend(x)
        else:
            logits, adapter = matmul(x, self.kernel[...], wide=True), self.adapter_of("kernel")
            logits = logits if adapter is None else logits + adapter.product(x, wide=True)
        logits = logits if self.bias is None else logits + self.bias[...]
        return logits if self.softcap is None else self.softcap * jnp.tanh(logits / self.softcap)


def last(x: Float[Array, "B L D"], lengths: Int[Array, "B"]) -> Float[Array, "B D"]:
    """Return the last valid position of each row, whose number of tokens is in `lengths`."""
    return jnp.take_along_axis(x, jnp.maximum(lengths - 1, 0)[:, None, None], axis=1)[:, 0]


def lengths(tokens: Tokens) -> Int[Array, "B"]:
    """Return the number of tokens of each row. Tokens are at the start of the row."""
    return jnp.sum((jnp.asarray(tokens.segments) > 0).astype(jnp.int32), axis=1)
