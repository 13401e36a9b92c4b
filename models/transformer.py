"""Blocks, and stacks of them: scanned over depth, with rematerialisation by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.models.config import StackConfig, TransformerConfig
from t2t.nn.attention import ABILITIES
from t2t.nn.dropout import Keys, dropout
from t2t.nn.mixers import Attend, Attention, Context
from t2t.nn.mlp import MLP
from t2t.nn.norms import norm
from t2t.nn.parameters import rebind, stack, unbind
from t2t.nn.relative import RelativeBias
from t2t.sharding import constrain, platform
from t2t.types import Params

POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

Layers = tuple[Params, ...] | None
"""Parameters of a stack, a layer's each, or None where they are as they are kept: stacked."""

UNROLLED = 24
"""Layers up to which a step of decoding is no loop over them: beyond, compiling takes too long."""

COPIED = 2**30
"""Bytes of a decoder's layers up to which decoding may hold them twice."""


class Block(nnx.Module):
    """Norm, mixer, norm, feed-forward; between the two, where it has a memory, norm and cross attention.

    Its three passes are those of its mixer (`t2t.nn.mixers`). `memory` is what several rows may share and no step changes: "encoder", cross
    attention's keys and values of the encoder's output, and "prompt", of the tokens themselves, where there are such.
    """

    def __init__(
        self, config: TransformerConfig, stack: StackConfig, *, cross: bool, bidirectional: bool = False
    ) -> None:
        self.by_block = ABILITIES[config.attention].bias == "blocks"
        self.relative_bias = relative_bias(stack, bidirectional) if stack.relative_per_layer else None
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
            quantization=config.quantization,
        )
        self.mlp_norm = norm(stack.norm, stack.embed, stack.norm_epsilon)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> Float[Array, "B L D"]:
        """Apply to whole rows."""
        context = with_bias(self.relative_bias, context, x.shape[1], by_block=self.by_block)
        x, _ = self._sublayer(
            "attention", x, self.attention_norm, lambda y: (self.attention(y, context), None), context.keys
        )
        return self._rest(x, self._own_memory(context), context)

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply to whole rows; also return a cache with room for `length` positions, and the memory."""
        context = with_bias(self.relative_bias, context, x.shape[1], by_block=self.by_block)
        x, cache = self._sublayer(
            "attention", x, self.attention_norm, lambda y: self.attention.prefill(y, context, length), context.keys
        )
        memory = self._own_memory(context)
        kept = {} if self.cross_attention is None else {"encoder": self.cross_attention.remember(*memory)}
        return self._rest(x, memory, context), cache, kept

    def step(
        self, x: Float[Array, "B 1 D"], cache: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position a row; also return what the cache gains by it."""
        return self._one(self.attention.step, x, cache, memory, context)

    def step_in_place(
        self, x: Float[Array, "B 1 D"], cache: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position a row; also return the cache with what it gains."""
        return self._one(self.attention.step_in_place, x, cache, memory, context)

    def _one(
        self, step: Callable[..., Any], x: Float[Array, "B 1 D"], cache: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        context = with_step_bias(self.relative_bias, context)
        x, after = self._sublayer(
            "attention", x, self.attention_norm, lambda y: step(y, cache, context, memory.get("prompt")), context.keys
        )
        return self._rest(x, memory.get("encoder"), context), after

    def _own_memory(self, context: Context) -> Any:
        if self.cross_attention is None:
            return None
        assert context.memory is not None, "cross attention needs the encoder's output"
        with jax.named_scope("cross_attention"):
            return self.cross_attention.keys_values(context.memory)

    def _rest(self, x: Float[Array, "B L D"], memory: Any, context: Context) -> Float[Array, "B L D"]:
        if self.cross_attention is not None:
            cross, stepping = self.cross_attention, context.index is not None
            x, _ = self._sublayer(
                "cross_attention",
                x,
                self.cross_attention_norm,
                lambda y: (
                    cross.cross_step(y, memory, context) if stepping else cross.cross(y, memory[0], memory[1], context),
                    None,
                ),
                context.keys,
            )
        x, _ = self._sublayer("mlp", x, self.mlp_norm, lambda y: (self.mlp(y, context.keys), None), context.keys)
        return constrain(x, ("batch", "length", None))

    def _sublayer(
        self, name: str, x: Float[Array, "B L D"], normalise: Any, apply: Callable[..., tuple[Any, Any]], keys: Keys
    ) -> tuple[Float[Array, "B L D"], Any]:
        with jax.named_scope(name):  # what a profile tells operations apart by
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
        biases=stack.biases if stack.attention_biases is None else stack.attention_biases,
        attend=Attend(backend=config.attention, block=config.attention_block, dropout=config.attention_rate),
        init=stack.kernel_init(stack.embed),
        query_init=stack.kernel_init(stack.embed, shrink=1.0 if stack.scaled_attention else stack.head_size**-0.5),
        out_init=stack.kernel_init(width, residual=True),
        quantization=config.quantization,
    )


class Stack(nnx.Module):
    """Blocks one after the other, as one scan over parameters stacked over depth: compiled once however deep.

    cross:         blocks also attend on a memory.
    bidirectional: relative positions tell before from after.

    Where the configuration has fewer groups than layers, a group's parameters serve several layers in a row.
    """

    def __init__(
        self, config: TransformerConfig, stack_config: StackConfig, *, cross: bool = False, bidirectional: bool = False
    ) -> None:
        self.config = stack_config
        self.scope = "encoder" if bidirectional else "decoder"
        # The dots of `chunked`'s blocks are what it is there not to keep; a policy around it would keep them all the same. They alone have batch axes.
        self.remat = "dots_no_batch" if config.remat == "dots" and config.attention == "chunked" else config.remat
        self.unroll = config.unroll
        self.by_block = ABILITIES[config.attention].bias == "blocks"
        self.dropout = config.dropout if stack_config.final_dropout else 0.0
        self.relative_bias = None if stack_config.relative_per_layer else relative_bias(stack_config, bidirectional)
        block = Block(config, stack_config, cross=cross, bidirectional=bidirectional)
        self.layers = stack(block, stack_config.blocks)
        self.final_norm = (
            norm(stack_config.norm, stack_config.embed, stack_config.norm_epsilon) if stack_config.final_norm else None
        )

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> Float[Array, "B L D"]:
        """Apply to whole rows."""
        context = self._shared(context, x.shape[1])

        def body(x: jax.Array, layer: tuple[Any, Any]) -> tuple[jax.Array, None]:
            params, key = layer
            return rebind(graph, params)(x, _with_keys(context, key)), None

        graph, params = unbind(self.layers)
        policy = POLICIES[self.remat]
        if policy is not None:
            body = jax.checkpoint(body, policy=policy, prevent_cse=False)
        with jax.named_scope(self.scope):
            x, _ = self._scan(body, x, params, self._layer_keys(context.keys))
            return self._finish(x, context.keys)

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply to whole rows; also return caches with room for `length` positions, and memories, all stacked over depth."""
        context = self._shared(context, x.shape[1])

        def body(x: jax.Array, layer: tuple[Any, None]) -> tuple[jax.Array, tuple[Any, Any]]:
            x, cache, memory = rebind(graph, layer[0]).prefill(x, context, length)
            return x, (cache, memory)

        graph, params = unbind(self.layers)
        x, (cache, memory) = self._scan(body, x, params, None)
        if self.apart:
            cache, memory = self._cut(cache), self._cut(memory)
        return self._finish(x, context.keys), cache, memory

    @property
    def apart(self) -> bool:
        """Whether caches are a tuple with a layer's each, rather than stacked over depth, and steps write in them.

        XLA's CPU compiler copies what it cuts out of a stacked array and multiplies by, and a cache that is read before it is written. On
        accelerators one write puts the entries of all layers in place.
        """
        return platform() == "cpu" and self.config.layers <= UNROLLED

    def layer_params(self) -> Layers:
        """Return each layer's parameters, copied, where a loop of steps is faster for having them so and they take at most COPIED bytes."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(unbind(self.layers)[1]))
        return self._by_layer() if self.apart and size <= COPIED else None

    def _by_layer(self) -> tuple[Params, ...]:
        repeats = self.config.layers // self.config.blocks
        return tuple(layer for layer in self._cut(unbind(self.layers)[1]) for _ in range(repeats))

    def step(
        self,
        x: Float[Array, "B 1 D"],
        cache: Any,
        memory: Any,
        context: Context,
        layers: Layers = None,
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position a row, at `context.index`. layers: `layer_params`, where they were made."""
        context = self._with_turns(with_step_bias(self.relative_bias, context))
        assert context.index is not None, "a step needs each row's index"
        graph, params = unbind(self.layers)
        if isinstance(cache, tuple):
            # Traced once for all layers.
            one = jax.jit(lambda x, own, *layer: rebind(graph, own).step_in_place(x, *layer, context))
            after = []
            for layer in zip(layers or self._by_layer(), cache, memory, strict=True):
                x, kept = one(x, *layer)
                after.append(kept)
            return self._finish(x, context.keys), tuple(after)

        def body(x: jax.Array, layer: tuple[Any, tuple[Any, Any]]) -> tuple[jax.Array, Any]:
            params, (cache, memory) = layer
            return rebind(graph, params).step(x, cache, memory, context)

        x, entries = self._scan(body, x, params, (cache, memory), unroll=self.config.layers <= UNROLLED)
        return self._finish(x, context.keys), self.layers.attention.put(cache, entries, context.index)

    def _cut(self, stacked: Any) -> tuple[Any, ...]:
        """Return what is stacked over depth layer by layer."""
        leaves = jax.tree.leaves(stacked)
        depth = len(leaves[0]) if leaves else self.config.layers
        return tuple(jax.tree.map(lambda leaf, at=layer: leaf[at], stacked) for layer in range(depth))

    def _scan(
        self, body: Callable[..., tuple[Any, Any]], x: jax.Array, params: Any, each: Any, *, unroll: bool = False
    ) -> tuple[Any, Any]:
        """Apply `body(x, (params, each))` for layer after layer; `each` is stacked over layers, `params` over groups of them."""
        layers, groups = self.config.layers, self.config.blocks
        if groups == layers:
            return jax.lax.scan(body, x, (params, each), unroll=layers if unroll else min(self.unroll, layers))

        def group(x: jax.Array, item: tuple[Any, Any]) -> tuple[Any, Any]:
            own, each = item
            return jax.lax.scan(lambda x, part: body(x, (own, part)), x, each, length=layers // groups)

        parts = jax.tree.map(lambda leaf: leaf.reshape(groups, layers // groups, *leaf.shape[1:]), each)
        x, made = jax.lax.scan(group, x, (params, parts))
        return x, jax.tree.map(lambda leaf: leaf.reshape(layers, *leaf.shape[2:]), made)

    def _shared(self, context: Context, length: int) -> Context:
        """Add what all layers share: one array that each layer would make, and take the gradient of, anew."""
        return self._with_turns(with_bias(self.relative_bias, context, length, by_block=self.by_block))

    def _with_turns(self, context: Context) -> Context:
        if self.config.positions != "rotary":
            return context
        assert context.positions is not None, "rotary positions need the tokens' positions"
        turns = self.config.rotary.turns(context.positions, self.config.head_size)
        return dataclasses.replace(context, turns=turns)

    def _layer_keys(self, keys: Keys) -> jax.Array | None:
        key = keys.next()
        return None if key is None else jax.random.split(key, self.config.layers)

    def _finish(self, x: Float[Array, "B L D"], keys: Keys) -> Float[Array, "B L D"]:
        if self.final_norm is not None:
            x = self.final_norm(x)
        return dropout(x, self.dropout, keys.next())


def relative_bias(stack: StackConfig, bidirectional: bool) -> RelativeBias | None:
    """Return the table of relative positions, or None where the stack has others."""
    if stack.positions != "relative":
        return None
    return RelativeBias(
        stack.heads,
        buckets=stack.buckets,
        max_distance=stack.max_distance,
        bidirectional=bidirectional,
        init=stack.kernel_init(stack.embed),
    )


def with_bias(relative: RelativeBias | None, context: Context, length: int, *, by_block: bool) -> Context:
    """Add the bias on rows of `length`, by blocks of queries where asked."""
    if relative is None:
        return context
    if by_block:
        return dataclasses.replace(context, bias=lambda start, rows: relative.block(start, rows, length))
    bias = constrain(relative.block(0, length, length), (None, "heads", "length", None))
    return dataclasses.replace(context, bias=bias)


def with_step_bias(relative: RelativeBias | None, context: Context) -> Context:
    """Add the bias of one query a row."""
    if relative is None:
        return context
    assert context.index is not None, "a step needs each row's index"
    context = dataclasses.replace(context, bias=relative.at(context.index, context.mask.keys.shape[1]))
    if context.prompt_mask is None:
        return context
    assert context.prompt_mask.index is not None, "the mask on a prompt is causal"
    before = relative.at(jnp.asarray(context.prompt_mask.index)[:, 0], context.prompt_mask.keys.shape[1])
    return dataclasses.replace(context, prompt_bias=before)


def _with_keys(context: Context, key: jax.Array | None) -> Context:
    return dataclasses.replace(context, keys=Keys(key))
