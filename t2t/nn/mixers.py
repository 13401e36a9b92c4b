"""What mixes positions within a block: one interface for training, for consuming a prompt and for decoding a token at a time.

A mixer has a parallel form (`__call__`), the same that also makes a cache (`prefill`), and a step form. What a cache holds is the mixer's own
affair: a pytree of arrays whose first axis is the batch.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from t2t.nn.attention import Backend, Bias, Shared, attend_step, attention
from t2t.nn.dropout import Keys
from t2t.nn.initializers import Initializer
from t2t.nn.linear import Linear
from t2t.nn.masks import Mask
from t2t.nn.quantized import Quantization
from t2t.nn.rotary import Turns, rotate
from t2t.sharding import constrain


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the layers of a stack share in one pass.

    mask:    of the tokens among themselves.
    bias:    relative bias on those logits, or None.
    memory:  the encoder's output, for cross attention, or None.
    memory_mask: of the tokens on the encoder's.
    index:   in a step, each row's place in its cache; None in a pass over whole rows.
    prompt_mask: in a step, of the rows on a prompt that several of them share; None where each has its own in its cache.
    prompt_bias: relative bias on those logits, or None.
    positions: of the tokens, each in its own example; only read where they are rotary.
    turns:   what rotary positions turn the tokens' queries and keys by, or None where they are not rotary.
    keys:    of dropout.
    """

    mask: Mask
    bias: Float[Array, "#B H q k"] | Bias | None = None
    memory: Float[Array, "B k D"] | None = None
    memory_mask: Mask | None = None
    index: Int[Array, "B"] | None = None
    prompt_mask: Mask | None = None
    prompt_bias: Float[Array, "B H 1 k"] | None = None
    positions: Int[Array, "B L"] | None = None
    turns: Turns | None = None
    keys: Keys = field(default_factory=lambda: Keys(None))


class Mixer(nnx.Module, abc.ABC):
    """Mixes information between positions."""

    @abc.abstractmethod
    def __call__(self, x: Float[Array, "B L D"], context: Context) -> Float[Array, "B L D"]:
        """Mix whole rows."""

    @abc.abstractmethod
    def prefill(self, x: Float[Array, "B L D"], context: Context, length: int) -> tuple[Float[Array, "B L D"], Any]:
        """Mix whole rows and return a cache with room for `length` positions."""

    @abc.abstractmethod
    def step(
        self, x: Float[Array, "B 1 D"], cache: Any, context: Context, prompt: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Mix one more position a row, at `context.index`, with those before it; also return what the cache gains by it, for `put`.

        prompt: what `share` made, where rows have their prompt in common.
        """

    @abc.abstractmethod
    def put(self, cache: Any, entry: Any, index: Int[Array, "B"]) -> Any:
        """Return the cache with what a step returned, all layers of a stack at once: both are stacked over depth."""

    @abc.abstractmethod
    def step_in_place(
        self, x: Float[Array, "B 1 D"], cache: Any, context: Context, prompt: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Mix as `step` does, and return the layer's cache with what it gains."""

    @staticmethod
    @abc.abstractmethod
    def share(cache: Any, count: int, prompt: int) -> tuple[Any, Any]:
        """Return caches of `count` rows in place of each, empty, and what these share of the `prompt` first positions. A layer's, or all stacked over depth."""


@dataclass(frozen=True, kw_only=True)
class Attend:
    """How attention is computed: see `t2t.nn.attention.attention`. Steps of decoding have one query and a way of their own, `attend_step`."""

    backend: Backend = "einsum"
    block: int = 256
    dropout: float = 0.0


class Attention(Mixer):
    """Multi-head attention, of tokens among themselves or, with `keys_values`, on the encoder's output.

    kv_heads: heads of keys and values; fewer than `heads` is grouped-query attention (Ainslie et al. 2023).
    scaled:   whether logits are divided by sqrt(head_dim). T5 instead draws its queries' kernel that much smaller.
    quantization: of the products with kernels; logits and weighted sums stay in floats.
    """

    def __init__(
        self,
        size: int,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        scaled: bool,
        biases: bool,
        attend: Attend,
        init: Initializer,
        query_init: Initializer,
        out_init: Initializer,
        quantization: Quantization = "none",
    ) -> None:
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.scale = head_dim**-0.5 if scaled else 1.0
        self.attend = attend
        linear = partial(Linear, bias=biases, quantization=quantization)
        self.query = linear(size, heads * head_dim, ("embed", "heads"), init=query_init)
        self.key = linear(size, kv_heads * head_dim, ("embed", "heads"), init=init)
        self.value = linear(size, kv_heads * head_dim, ("embed", "heads"), init=init)
        self.out = linear(heads * head_dim, size, ("heads", "embed"), init=out_init)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> Float[Array, "B L D"]:
        """Attend over the rows themselves."""
        return self._self(x, context, *self._own_keys_values(x, context))

    def prefill(self, x: Float[Array, "B L D"], context: Context, length: int) -> tuple[Float[Array, "B L D"], Any]:
        """Attend over the rows themselves; the cache holds their keys and values, [B K length D] each, as products with one query read them."""
        keys, values = self._own_keys_values(x, context)
        room = ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0))
        cache = {name: jnp.pad(jnp.swapaxes(y, 1, 2), room) for name, y in (("key", keys), ("value", values))}
        return self._self(x, context, keys, values), cache

    def step(
        self, x: Float[Array, "B 1 D"], cache: Any, context: Context, prompt: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Attend over the positions before and this one; what is to be cached of it is its key and value, [B K 1 D] each."""
        assert context.index is not None, "a step needs each row's index"
        entry = self._entry(x, context)
        own = (context.index, entry["key"], entry["value"])
        return self._step(x, cache, context, prompt, own), entry

    def step_in_place(
        self, x: Float[Array, "B 1 D"], cache: Any, context: Context, prompt: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Attend as `step` does, on a cache that has the new key and value already: written before it is read, it need not be copied."""
        index, rows = context.index, jnp.arange(x.shape[0])
        assert index is not None, "a step needs each row's index"
        cache = jax.tree.map(
            lambda old, new: old.at[rows, :, index].set(new[:, :, 0], indices_are_sorted=True, unique_indices=True),
            cache,
            self._entry(x, context),
        )
        return self._step(x, cache, context, prompt, None), cache

    @staticmethod
    def share(cache: Any, count: int, prompt: int) -> tuple[Any, Any]:
        """Return empty caches for `count` rows in place of each, and the keys and values of the `prompt` first positions."""

        def empty(x: Float[Array, "*N B K L D"]) -> Float[Array, "*N R K l D"]:
            *layers, batch, heads, length, size = x.shape
            return jnp.zeros((*layers, batch * count, heads, length - prompt, size), x.dtype)

        return jax.tree.map(empty, cache), jax.tree.map(lambda x: x[..., :prompt, :], cache)

    @staticmethod
    def widen(more: int, x: Float[Array, "*N B K L D"]) -> Float[Array, "*N B K l D"]:
        """Return an array of a cache with room for `more` positions behind its own."""
        return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more), (0, 0)])

    def _entry(self, x: Float[Array, "B 1 D"], context: Context) -> dict[str, Float[Array, "B K 1 D"]]:
        key, value = (jnp.swapaxes(new, 1, 2) for new in self._own_keys_values(x, context))
        return {"key": key, "value": value}

    def _step(
        self, x: Float[Array, "B 1 D"], cache: Any, context: Context, prompt: Any, own: Any
    ) -> Float[Array, "B 1 D"]:
        queries, shared = self._split(self.query(x), self.heads), None
        if prompt is not None:
            assert context.prompt_mask is not None, "a shared prompt needs a mask"
            shared = Shared(prompt["key"], prompt["value"], context.prompt_mask, context.prompt_bias)
        out = attend_step(
            queries if context.turns is None else rotate(queries, context.turns),
            cache["key"],
            cache["value"],
            mask=context.mask,
            bias=context.bias,  # type: ignore[arg-type]  # of one query, an array
            scale=self.scale,
            own=own,
            shared=shared,
        )
        return self.out(out.reshape(*out.shape[:2], -1))

    def put(self, cache: Any, entry: Any, index: Int[Array, "B"]) -> Any:
        """Return the cache with each row's entry at its index; both stacked over depth. Only the entries are written."""
        rows = jnp.arange(index.shape[0])
        # The indexed axes come first: [B N K D], N layers.
        return jax.tree.map(
            lambda old, new: old.at[:, rows, :, index].set(
                jnp.moveaxis(new[:, :, :, 0], 0, 1), indices_are_sorted=True, unique_indices=True
            ),
            cache,
            entry,
        )

    def remember(self, keys: Float[Array, "B k K D"], values: Float[Array, "B k K D"]) -> Any:
        """Return `keys_values` as `cross_step` reads them, [B K k D] each."""
        return {"key": jnp.swapaxes(keys, 1, 2), "value": jnp.swapaxes(values, 1, 2)}

    def cross_step(self, x: Float[Array, "R 1 D"], memory: Any, context: Context) -> Float[Array, "R 1 D"]:
        """Attend on the encoder's output from one position a row; R / B rows one after the other share one of the memory's B."""
        assert context.memory_mask is not None, "cross attention needs a mask on the encoder's tokens"
        queries = self._split(self.query(x), self.heads)
        out = attend_step(queries, memory["key"], memory["value"], mask=context.memory_mask, scale=self.scale)
        return self.out(out.reshape(*out.shape[:2], -1))

    def keys_values(self, x: Float[Array, "B k D"]) -> tuple[Float[Array, "B k K D"], Float[Array, "B k K D"]]:
        """Return the keys and values of positions."""
        # Whole rows on every device: where the mesh divides their length, this is where the parts are gathered.
        return self._split(self.key(x), self.kv_heads, None), self._split(self.value(x), self.kv_heads, None)

    def _own_keys_values(self, x: Float[Array, "B L D"], context: Context) -> tuple[jax.Array, jax.Array]:
        keys, values = self.keys_values(x)
        return (keys if context.turns is None else rotate(keys, context.turns)), values

    def cross(
        self, x: Float[Array, "B q D"], keys: Float[Array, "B k K D"], values: Float[Array, "B k K D"], context: Context
    ) -> Float[Array, "B q D"]:
        """Attend on the encoder's output, given its `keys_values`."""
        assert context.memory_mask is not None, "cross attention needs a mask on the encoder's tokens"
        return self._attend(x, keys, values, context.memory_mask, None, context.keys.next())

    def _self(
        self, x: Float[Array, "B L D"], context: Context, keys: jax.Array, values: jax.Array
    ) -> Float[Array, "B L D"]:
        return self._attend(x, keys, values, context.mask, context.bias, context.keys.next(), context.turns)

    def _attend(
        self,
        x: Float[Array, "B q D"],
        keys: jax.Array,
        values: jax.Array,
        mask: Mask,
        bias: jax.Array | Bias | None,
        dropout_key: jax.Array | None,
        turns: Turns | None = None,
    ) -> Float[Array, "B q D"]:
        queries = self._split(self.query(x), self.heads)
        out = attention(
            queries if turns is None else rotate(queries, turns),
            keys,
            values,
            mask=mask,
            bias=bias,
            scale=self.scale,
            dropout=self.attend.dropout,
            dropout_key=dropout_key,
            backend=self.attend.backend,
            block=self.attend.block,
        )
        return self.out(out.reshape(*out.shape[:2], -1))

    def _split(self, x: Float[Array, "B L HD"], heads: int, length: str | None = "length") -> Float[Array, "B L H D"]:
        return constrain(x.reshape(*x.shape[:2], heads, self.head_dim), ("batch", length, "heads", None))
