"""Blocks, and stacks of them: scanned over depth, with rematerialisation by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from t2t.models.config import StackConfig, TransformerConfig
from t2t.nn.dropout import Keys, dropout
from t2t.nn.mixers import Attend, Attention, Context
from t2t.nn.mlp import MLP
from t2t.nn.norms import norm
from t2t.nn.parameters import rebind, stack, unbind
from t2t.nn.relative import RelativeBias
from t2t.sharding import constrain

POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nnx.Module):
    """Norm, mixer, norm, feed-forward; between the two, where it has a memory, norm and cross attention.

    Its three passes are those of its mixer (`t2t.nn.mixers`). `memory` is what is made once of the encoder's output and never changes: cross
    attention's keys and values.
    """

    def __init__(self, config: TransformerConfig, stack: StackConfig, *, cross: bool) -> None:
        self.post = stack.norm_place == "post"
        self.dropout = config.dropout
        self.attention = _attention(config, stack)
        self.attention_norm = norm(stack.norm, stack.embed, stack.norm_epsilon)
        self.cross_attention = _attention(config, stack) if cross else None
        self.cross_attention_norm = norm(stack.norm, stack.embed, stack.norm_epsilon) if cross else None
        self.mlp = MLP(
            stack.embed,
            stack.mlp,
            activation=stack.activation,
            gated=stack.gated,
            biases=stack.biases,
            dropout=config.dropout if stack.mlp_dropout else 0.0,
            init=stack.kernel_init(stack.embed),
            out_init=stack.kernel_init(stack.mlp, residual=True),
        )
        self.mlp_norm = norm(stack.norm, stack.embed, stack.norm_epsilon)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> Float[Array, "B L D"]:
        """Apply to whole rows."""
        x, _ = self._sublayer(x, self.attention_norm, lambda y: (self.attention(y, context), None), context.keys)
        return self._rest(x, self._own_memory(context), context)

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply to whole rows; also return a cache with room for `length` positions, and the memory."""
        x, cache = self._sublayer(
            x, self.attention_norm, lambda y: self.attention.prefill(y, context, length), context.keys
        )
        memory = self._own_memory(context)
        return self._rest(x, memory, context), cache, memory

    def step(
        self, x: Float[Array, "B 1 D"], cache: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position a row."""
        x, cache = self._sublayer(
            x, self.attention_norm, lambda y: self.attention.step(y, cache, context), context.keys
        )
        return self._rest(x, memory, context), cache

    def _own_memory(self, context: Context) -> Any:
        if self.cross_attention is None:
            return None
        assert context.memory is not None, "cross attention needs the encoder's output"
        return self.cross_attention.keys_values(context.memory)

    def _rest(self, x: Float[Array, "B L D"], memory: Any, context: Context) -> Float[Array, "B L D"]:
        if self.cross_attention is not None:
            cross, (keys, values) = self.cross_attention, memory
            x, _ = self._sublayer(
                x, self.cross_attention_norm, lambda y: (cross.cross(y, keys, values, context), None), context.keys
            )
        x, _ = self._sublayer(x, self.mlp_norm, lambda y: (self.mlp(y, context.keys), None), context.keys)
        return constrain(x, ("batch", "length", None))

    def _sublayer(
        self, x: Float[Array, "B L D"], normalise: Any, apply: Callable[..., tuple[Any, Any]], keys: Keys
    ) -> tuple[Float[Array, "B L D"], Any]:
        y, aside = apply(x if self.post else normalise(x))
        x = x + dropout(y, self.dropout, keys.next())
        return (normalise(x) if self.post else x), aside


def _attention(config: TransformerConfig, stack: StackConfig) -> Attention:
    width = stack.heads * stack.head_size
    return Attention(
        stack.embed,
        heads=stack.heads,
        kv_heads=stack.key_heads,
        head_dim=stack.head_size,
        scaled=stack.scaled_attention,
        biases=stack.biases,
        attend=Attend(backend=config.attention, block=config.attention_block, dropout=config.attention_rate),
        init=stack.kernel_init(stack.embed),
        query_init=stack.kernel_init(stack.embed, shrink=1.0 if stack.scaled_attention else stack.head_size**-0.5),
        out_init=stack.kernel_init(width, residual=True),
    )


class Stack(nnx.Module):
    """Blocks one after the other, as one scan over parameters stacked over depth: compiled once however deep.

    cross:         blocks also attend on a memory.
    bidirectional: relative positions tell before from after.
    """

    def __init__(
        self, config: TransformerConfig, stack_config: StackConfig, *, cross: bool = False, bidirectional: bool = False
    ) -> None:
        self.config = stack_config
        self.remat = config.remat
        self.by_block = config.attention == "chunked"
        self.dropout = config.dropout if stack_config.final_dropout else 0.0
        self.relative_bias = (
            RelativeBias(
                stack_config.heads,
                buckets=stack_config.buckets,
                max_distance=stack_config.max_distance,
                bidirectional=bidirectional,
                init=stack_config.kernel_init(stack_config.embed),
            )
            if stack_config.positions == "relative"
            else None
        )
        self.layers = stack(Block(config, stack_config, cross=cross), stack_config.layers)
        self.final_norm = (
            norm(stack_config.norm, stack_config.embed, stack_config.norm_epsilon) if stack_config.final_norm else None
        )

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> Float[Array, "B L D"]:
        """Apply to whole rows."""
        context = self._with_bias(context, x.shape[1])

        def body(x: jax.Array, layer: tuple[Any, Any]) -> tuple[jax.Array, None]:
            params, key = layer
            return rebind(graph, params)(x, _with_keys(context, key)), None

        graph, params = unbind(self.layers)
        policy = POLICIES[self.remat]
        if policy is not None:
            body = jax.checkpoint(body, policy=policy, prevent_cse=False)
        x, _ = jax.lax.scan(body, x, (params, self._layer_keys(context.keys)))
        return self._finish(x, context.keys)

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply to whole rows; also return caches with room for `length` positions, and memories, all stacked over depth."""
        context = self._with_bias(context, x.shape[1])

        def body(x: jax.Array, params: Any) -> tuple[jax.Array, tuple[Any, Any]]:
            x, cache, memory = rebind(graph, params).prefill(x, context, length)
            return x, (cache, memory)

        graph, params = unbind(self.layers)
        x, (cache, memory) = jax.lax.scan(body, x, params)
        return self._finish(x, context.keys), cache, memory

    def step(
        self, x: Float[Array, "B 1 D"], cache: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position a row, at `context.index`."""
        if self.relative_bias is not None:
            assert context.index is not None, "a step needs each row's index"
            keys = context.mask.keys.shape[1]
            context = _replace(context, bias=self.relative_bias.at(context.index, keys))

        def body(x: jax.Array, layer: tuple[Any, Any, Any]) -> tuple[jax.Array, Any]:
            params, cache, memory = layer
            return rebind(graph, params).step(x, cache, memory, context)

        graph, params = unbind(self.layers)
        x, cache = jax.lax.scan(body, x, (params, cache, memory))
        return self._finish(x, context.keys), cache

    def _with_bias(self, context: Context, length: int) -> Context:
        if self.relative_bias is None:
            return context
        if self.by_block:
            relative = self.relative_bias
            return _replace(context, bias=lambda start, rows: relative.block(start, rows, length))
        # One array for all layers: each layer's own would be made, and have its gradient taken, anew.
        bias = constrain(self.relative_bias.block(0, length, length), (None, "heads", "length", None))
        return _replace(context, bias=bias)

    def _layer_keys(self, keys: Keys) -> jax.Array | None:
        key = keys.next()
        return None if key is None else jax.random.split(key, self.config.layers)

    def _finish(self, x: Float[Array, "B L D"], keys: Keys) -> Float[Array, "B L D"]:
        if self.final_norm is not None:
            x = self.final_norm(x)
        return dropout(x, self.dropout, keys.next())


def _replace(context: Context, *, bias: Any) -> Context:
    return dataclasses.replace(context, bias=bias)


def _with_keys(context: Context, key: jax.Array | None) -> Context:
    return dataclasses.replace(context, keys=Keys(key))
