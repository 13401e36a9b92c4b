"""Stacks of layers: a pattern of layers repeated over depth, with a scan over the repeats and optional rematerialization."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.models.block import Block
from t2t.models.config import StackConfig
from t2t.models.pattern_blocks import PatternBlocks
from t2t.models.states import Patterned, cut, each
from t2t.models.transformer_config import TransformerConfig
from t2t.models.walking import Step, walker
from t2t.nn.aux import Aux, added, over_layers
from t2t.nn.dropout import Keys, dropout
from t2t.nn.layer_outputs import recorder
from t2t.nn.layers import LayerConfig
from t2t.nn.mixers import BuildOptions, Context, Handed
from t2t.nn.norms import norm
from t2t.nn.parameters import modules, rebind, stack, unbind
from t2t.nn.weights import QuantizedKernel
from t2t.sharding import platform
from t2t.types import Params

POLICIES: dict[str, Callable[..., Any] | None] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

Layers = tuple[Params, ...] | None
"""Parameters of a stack, one entry for each layer. None means that the parameters are used as stored: stacked."""

UNROLLED = 24
"""Decoding steps unroll the loop over layers up to this number of layers. Beyond it, compilation takes too long."""

COPIED = 2**30
"""Decoding copies the parameters of the decoder's layers up to this size in bytes."""


class Stack(nnx.Module):
    """A sequence of layers, run as one scan over parameters stacked over depth. Compile time does not depend on the depth.

    cross:         add cross attention to the encoder's output.
    memory_width:  width of the encoder's output, if it differs from the stack's.
    bidirectional: tokens also see later tokens.

    If the pattern has one layer, the parameters of all layers are stacked ("layers/attention/..."). If the configuration has fewer groups than layers, several
    consecutive layers share the parameters of a group. If the pattern is longer, the parameters of each of its positions are stacked over the repeats
    ("layers/0/attention/..."), and those of a partial last repeat are separate ("tail/0/attention/..."), so that no iteration of the scan slices arrays again.
    Layers that come before the pattern are separate too ("first/0/attention/...").
    """

    def __init__(
        self,
        config: TransformerConfig,
        stack_config: StackConfig,
        *,
        cross: bool = False,
        bidirectional: bool = False,
        memory_width: int | None = None,
    ) -> None:
        self.config = stack_config
        self.scope = "encoder" if bidirectional else "decoder"
        self.remat, self.unroll = config.remat, config.unroll
        self.dropout = config.dropout if stack_config.final_dropout else 0.0
        first, pattern = config.first_of(stack_config, cross=cross), config.pattern_of(stack_config, cross=cross)
        options = BuildOptions(
            width=stack_config.d_model,
            kernel_init=stack_config.kernel_init,
            bidirectional=bidirectional,
            memory_width=memory_width,
            dropout=config.dropout if stack_config.mlp_dropout else 0.0,
            quantization=config.quantization,
        )
        self.place_tables = self._build_tables((*first, *pattern), options)
        self.first = PatternBlocks([Block(layer, options) for layer in first])
        self.depth = stack_config.num_layers - len(first)
        blocks = [Block(layer, options) for layer in pattern]
        self.single = len(pattern) == 1
        if self.single:
            self.repeats = stack_config.blocks - len(first)
            self.layers: Any = stack(blocks[0], self.repeats)
            self.tail = PatternBlocks([])
        else:
            self.repeats, rest = divmod(self.depth, len(pattern))
            self.layers = PatternBlocks([stack(block, self.repeats) for block in blocks])
            self.tail = PatternBlocks([Block(layer, options) for layer in pattern[:rest]])
        self.final_norm = (
            norm(stack_config.norm, stack_config.d_model, stack_config.norm_epsilon)
            if stack_config.final_norm
            else None
        )

    def share_layers(self, other: Stack) -> None:
        """Use the mixers and feed-forward layers of a stack with the same pattern. Norms, cross attention and tables are not shared."""
        for own, theirs in zip(self._all_blocks(), other._all_blocks(), strict=True):
            parts = (own.layer.mixer, own.layer.feed_forward)
            for name in (part.name for part in parts if part is not None):
                # One module in two places is one set of parameters in NNX.
                setattr(own, name, getattr(theirs, name))

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply to whole rows. Also return the auxiliary terms that layers report, summed over all layers."""
        if (walk := walker()) is not None:
            return self._finish(walk(self, x, context), context.keys), {}
        (before, contexts), parts = self._prepared(context), self._parts()
        first_keys, keys, rest = self._layer_keys(context.keys)
        recorded = recorder()

        def body(x: jax.Array, round_: tuple[Any, Any]) -> tuple[jax.Array, tuple[Aux, tuple[jax.Array, ...]]]:
            total: Aux = {}
            outputs = []
            for place, (params, key) in enumerate(zip(*map(self._unpacked, round_), strict=True)):
                x, aux = self._row_function(parts[place][0], contexts[place])(x, params, key)
                total = added(total, aux)
                outputs.append(x)
            return x, (total, () if recorded is None else tuple(outputs))

        def separate(
            x: jax.Array, blocks: Sequence[Block], own: Sequence[Context], keys: Any
        ) -> tuple[jax.Array, Aux, list[jax.Array]]:
            total: Aux = {}
            outputs = []
            for place, block in enumerate(blocks):
                graph, params = unbind(block)
                key = None if keys is None else keys[place]
                out, aux = self._row_function(graph, own[place], scanned=False)(x, params, key)
                x, total = _taken(out, before, contexts), added(total, aux)
                outputs.append(x)
            return x, total, outputs

        with jax.named_scope(self.scope):
            x, total, first = separate(x, self.first.all(), before, first_keys)
            x, (terms, repeated) = self._scan(body, x, self._packed([params for _, params in parts]), keys)
            total = added(total, over_layers(terms))
            x, aux, tail = separate(x, self.tail.all(), contexts, rest)
            if recorded is not None:
                middle = jnp.stack(repeated, axis=1).reshape(-1, *x.shape)
                recorded[self.scope] = jnp.concatenate(
                    [one[None] for one in first] + [middle] + [one[None] for one in tail]
                )
            return self._finish(x, context.keys), added(total, aux)

    def in_order(self) -> Iterator[Step]:
        """Yield the layers in the order in which they are applied, see `t2t.models.walking`."""
        for place, block in enumerate(self.first.all()):
            yield Step(block, None, place)
        times = self.depth // self.repeats if self.single else 1
        for index in range(self.repeats):
            for place, block in enumerate(self._blocks(), self.first.count):
                yield Step(block, index, place, times)
        for place, block in enumerate(self.tail.all(), self.first.count):
            yield Step(block, None, place)

    def contexts(self, context: Context) -> list[Context]:
        """Return the contexts of the first layers and of the positions of the pattern, `Step.place`."""
        before, contexts = self._prepared(context)
        return before + contexts

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply to whole rows. Also return states with room for `length` positions, and memories, in a form of `t2t.models.states`."""
        (before, contexts), parts = self._prepared(context), self._parts()

        def body(x: jax.Array, round_: tuple[Any, None]) -> tuple[jax.Array, Any]:
            outputs = []
            for place, params in enumerate(self._unpacked(round_[0])):
                x, *output = rebind(parts[place][0], params).prefill(x, contexts[place], length)
                outputs.append(tuple(output))
            return x, self._packed(outputs)

        def separate(x: jax.Array, blocks: Sequence[Block], own: Sequence[Context]) -> tuple[jax.Array, list[Any]]:
            outputs = []
            for place, block in enumerate(blocks):
                out, *output = block.prefill(x, own[place], length)
                x = _taken(out, before, contexts)
                outputs.append(tuple(output))
            return x, outputs

        x, first = separate(x, self.first.all(), before)
        x, outputs = self._scan(body, x, self._packed([params for _, params in parts]), None)
        x, tail = separate(x, self.tail.all(), contexts)
        states, memories = (
            self._decoding_form(*([one[i] for one in part] for part in (first, self._unpacked(outputs), tail)))
            for i in (0, 1)
        )
        return self._finish(x, context.keys), states, memories

    @property
    def per_layer(self) -> bool:
        """Whether states are a tuple with one entry for each layer, and each step updates them layer by layer, instead of being stacked over depth.

        XLA's CPU compiler copies a slice of a stacked array before it multiplies by it, and copies a cache that is read before it is written. On accelerators a
        single write updates the entries of all layers.
        """
        return platform() == "cpu" and self._unrolls

    @property
    def _unrolls(self) -> bool:
        """Whether a step unrolls the loop over layers. XLA schedules what does not depend on other layers first: it would hold the dequantized kernels of all of them."""
        return self.config.num_layers <= UNROLLED and not modules(self, QuantizedKernel)

    def layer_params(self) -> Layers:
        """Return a copy of each layer's parameters if that makes a loop of steps faster and takes at most COPIED bytes, else None."""
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(unbind(self.layers)[1]))
        return self._by_layer() if self.per_layer and size <= COPIED else None

    def step(
        self,
        x: Float[Array, "B 1 D"],
        states: Any,
        memories: Any,
        context: Context,
        layers: Layers = None,
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position per row, at `context.index`. layers: the result of `layer_params`, if it was called."""
        (before, contexts), parts, index = self._prepared(context), self._parts(), context.index
        assert index is not None, "a step needs each row's index"
        if isinstance(states, tuple):
            # Traced once for all layers at the same position of the pattern.
            first = [unbind(block) for block in self.first.all()]
            steps = [
                jax.jit(
                    lambda x, handed, params, *kept, graph=graph, own=own: rebind(graph, params).step(
                        x, *kept, dataclasses.replace(own, handed=handed)
                    )
                )
                for (graph, _), own in zip((*first, *parts), (*before, *contexts), strict=True)
            ]
            new_states, handed = [], None
            for depth, layer in enumerate(zip(layers or self._by_layer(), states, memories, strict=True)):
                place = depth if depth < len(first) else len(first) + (depth - len(first)) % len(parts)
                out, kept = steps[place](x, handed, *layer)
                x, handed = (out.output, out.values) if isinstance(out, Handed) else (out, handed)
                new_states.append(kept)
            return self._finish(x, context.keys), tuple(new_states)

        def body(x: jax.Array, round_: tuple[Any, tuple[Any, Any]]) -> tuple[jax.Array, Any]:
            entries = []
            params, (state, memory) = round_
            for place, kept in enumerate(zip(*map(self._unpacked, (params, state, memory)), strict=True)):
                x, entry = rebind(parts[place][0], kept[0]).step_entry(x, kept[1], kept[2], contexts[place])
                entries.append(entry)
            return x, self._packed(entries)

        def separate(
            x: jax.Array, blocks: Sequence[Block], own: Sequence[Context], kept: Any, memory: Any
        ) -> tuple[jax.Array, tuple[Any, ...]]:
            entries = []
            for place, (block, state, own_memory) in enumerate(zip(blocks, kept, memory, strict=True)):
                out, entry = block.step_entry(x, state, own_memory, own[place])
                x = _taken(out, before, contexts)
                entries.append(entry)
            return x, tuple(entries)

        repeated = (self._repeated(states), self._repeated(memories))
        params = self._packed([params for _, params in parts])
        first_entries: tuple[Any, ...] = ()
        if isinstance(states, Patterned):
            x, first_entries = separate(x, self.first.all(), before, states.first, memories.first)
        x, entries = self._scan(body, x, params, repeated, unroll=self._unrolls)
        if isinstance(states, Patterned):
            x, tail = separate(x, self.tail.all(), contexts, states.tail, memories.tail)
            entries = Patterned((entries,) if self.single else entries, tail, first_entries)
        written = each(lambda axis, state, entry: state.write(entry, index, axis), states, entries)
        return self._finish(x, context.keys), written

    def _build_tables(
        self, pattern: Sequence[LayerConfig], options: BuildOptions
    ) -> tuple[tuple[tuple[str, str], ...], ...]:
        """Build the modules that mixers share. Return for each position of the pattern pairs (the mixer's name of a module, the stack's name of it)."""
        built: dict[str, Any] = {}
        place_names = []
        for place, layer in enumerate(pattern):
            names = []
            for name, table in ({} if layer.mixer.tables_per_layer else layer.mixer.tables()).items():
                equal = [known for known, other in built.items() if known.split("-")[0] == name and other == table]
                stack_name = equal[0] if equal else name if name not in built else f"{name}-{place}"
                if stack_name not in built:
                    built[stack_name] = table
                    setattr(self, stack_name, table.build(options))
                names.append((name, stack_name))
            place_names.append(tuple(names))
        return tuple(place_names)

    def _prepared(self, context: Context) -> tuple[list[Context], list[Context]]:
        """Return the contexts of the first layers, and of each position of the pattern.

        They hold what each layer would otherwise compute and differentiate again.
        """
        tables = [{name: getattr(self, stack_name) for name, stack_name in names} for names in self.place_tables]
        blocks = self.first.all() + self._blocks()
        contexts = [block.prepared(context, own_tables) for block, own_tables in zip(blocks, tables, strict=True)]
        return contexts[: self.first.count], contexts[self.first.count :]

    def _all_blocks(self) -> list[Block]:
        return self.first.all() + self._blocks() + self.tail.all()

    def _blocks(self) -> list[Block]:
        return [self.layers] if self.single else self.layers.all()

    def _parts(self) -> list[tuple[Any, Params]]:
        """Return the structure and the parameters of each position of the pattern."""
        return [unbind(block) for block in self._blocks()]

    def _unpacked(self, packed: Any) -> Sequence[Any]:
        """Invert `_packed`."""
        return [packed] if self.single or packed is None else packed

    def _packed(self, places: Sequence[Any]) -> Any:
        """Return the values of all positions in the form that a scan carries: without a tuple if there is only one."""
        return places[0] if self.single else tuple(places)

    def _decoding_form(self, first: Sequence[Any], repeats: Sequence[Any], tail: Sequence[Any]) -> Any:
        """Return states or memories in the form that steps use."""
        if self.per_layer:
            per_layer = [cut(one, self.depth if self.single else self.repeats) for one in repeats]
            return (*first, *(one for round_ in zip(*per_layer, strict=True) for one in round_), *tail)
        return repeats[0] if self.single and not first else Patterned(tuple(repeats), tuple(tail), tuple(first))

    def _repeated(self, states: Any) -> Any:
        return self._packed(states.repeats) if isinstance(states, Patterned) else states

    def _by_layer(self) -> tuple[Params, ...]:
        places = [cut(params, self.repeats) for _, params in self._parts()]
        first, tail = ([unbind(block)[1] for block in part.all()] for part in (self.first, self.tail))
        if self.single:
            times = self.depth // self.repeats
            return (*first, *(layer for layer in places[0] for _ in range(times)))
        return (*first, *(layer for round_ in zip(*places, strict=True) for layer in round_), *tail)

    def _row_function(
        self, graph: Any, context: Context, *, scanned: bool = True
    ) -> Callable[..., tuple[jax.Array, Aux]]:
        """Return the function (x, params, key) that applies one layer to whole rows, with the configured rematerialization."""

        def one(x: jax.Array, params: Params, key: jax.Array | None) -> tuple[jax.Array, Aux]:
            block: Block = rebind(graph, params)
            return block(x, dataclasses.replace(context, keys=Keys(key)))

        # A policy that saves products must not save those that a mixer recomputes itself. Only these have batch axes.
        keeps = all(block.layer.mixer.keeps_products for block in self._blocks())
        policy = POLICIES["dots_no_batch" if self.remat == "dots" and not keeps else self.remat]
        return one if policy is None else jax.checkpoint(one, policy=policy, prevent_cse=not scanned)

    def _scan(
        self, body: Callable[..., tuple[Any, Any]], x: jax.Array, params: Any, each: Any, *, unroll: bool = False
    ) -> tuple[Any, Any]:
        """Scan `body(x, (params, each))` over the repeats. `each` is stacked over the repeats; `params` too, or over the groups of layers."""
        if not self.single:
            rounds = self.repeats
            return jax.lax.scan(body, x, (params, each), unroll=rounds if unroll else min(self.unroll, rounds))
        layers, groups = self.depth, self.repeats
        if groups == layers:
            return jax.lax.scan(body, x, (params, each), unroll=layers if unroll else min(self.unroll, layers))

        def group(x: jax.Array, item: tuple[Any, Any]) -> tuple[Any, Any]:
            group_params, each = item
            return jax.lax.scan(lambda x, part: body(x, (group_params, part)), x, each, length=layers // groups)

        parts = jax.tree.map(lambda leaf: leaf.reshape(groups, layers // groups, *leaf.shape[1:]), each)
        x, outputs = jax.lax.scan(group, x, (params, parts))
        return x, jax.tree.map(lambda leaf: leaf.reshape(layers, *leaf.shape[2:]), outputs)

    def _layer_keys(self, keys: Keys) -> tuple[Any, Any, Any]:
        """Return the dropout keys for the first layers, for the scan and for the tail, or None in their place without dropout."""
        key = keys.next()
        if key is None:
            return None, (None if self.single else (None,) * len(self._blocks())), None
        all_keys = jax.random.split(key, self.config.num_layers)
        first, layer_keys = all_keys[: self.first.count], all_keys[self.first.count :]
        if self.single:
            return first, layer_keys, None
        places = len(self._blocks())
        scanned = layer_keys[: self.repeats * places].reshape(self.repeats, places, *layer_keys.shape[1:])
        return first, tuple(scanned[:, place] for place in range(places)), layer_keys[self.repeats * places :]

    def _finish(self, x: Float[Array, "B L D"], keys: Keys) -> Float[Array, "B L D"]:
        if self.final_norm is not None:
            x = self.final_norm(x)
        return dropout(x, self.dropout, keys.next())


def _taken(out: Any, *later: list[Context]) -> jax.Array:
    """Return the output of a layer. If it hands values on, put them into the contexts of the layers after it."""
    if not isinstance(out, Handed):
        return out
    for contexts in later:
        contexts[:] = [dataclasses.replace(context, handed=out.values) for context in contexts]
    return out.output
