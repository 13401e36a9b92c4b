"""One layer of a stack of layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.aux import Aux, added
from t2t.nn.dropout import Keys, adapter_dropout, dropout
from t2t.nn.feed_forward import FeedForward
from t2t.nn.layers import LayerConfig
from t2t.nn.linear_inputs import of_memory
from t2t.nn.mixers import BuildOptions, Context, CrossMixer, Handed, MemoryReader, Mixer, MixerConfig
from t2t.nn.state import LayerState
from t2t.sharding import constrain


class Block(nnx.Module):
    """Norm, mixer, norm, feed-forward. With an encoder's output to read, a norm and cross attention come between the two, unless the mixer reads it. A layer may
    have no feed-forward layer, nor its norm.

    The methods are those of the mixer (`t2t.nn.mixers`); the output of a layer whose mixer hands values on is a `Handed`, too. `memory` is what rows may share and no step changes: "encoder" is what the layer keeps of the
    encoder's output, "prompt" is what hypotheses on the same prompt have in common.

    The configurations of the parts name the parameters ("attention", "mlp"). The norms have the same names with the suffix "_norm", and those of outputs with
    the suffix "_output_norm". A mixer may have no norm (`NormConfig.mixer`). In an encoder, a convolution of the layer's input may follow.
    """

    def __init__(self, layer: LayerConfig, options: BuildOptions) -> None:
        self.layer = layer
        parts: dict[str, nnx.Module] = {layer.mixer.name: layer.mixer.build(options)}
        if layer.cross is not None:
            parts[f"cross_{layer.cross.name}"] = layer.cross.build_cross(options)
        if layer.feed_forward is not None:
            parts[layer.feed_forward.name] = layer.feed_forward.build(options)
        for name, part in parts.items():
            setattr(self, name, part)
            normed = layer.norms.place != "output" and (layer.norms.mixer or name != layer.mixer.name)
            setattr(self, f"{name}_norm", layer.norms.build(options.width) if normed else None)
            if layer.norms.place in ("sandwich", "output"):
                setattr(self, f"{name}_output_norm", layer.norms.build(options.width))
        self.convolution = (
            None if layer.convolution is None else layer.convolution.build(options, dropout=layer.dropout)
        )
        self.convolution_norm = None if layer.convolution is None else layer.norms.build(options.width)
        if layer.mixer.tables_per_layer:
            for name, table in layer.mixer.tables().items():
                setattr(self, name, table.build(options))

    def prepared(self, context: Context, tables: dict[str, Any]) -> Context:
        """Return the context with the inputs that all layers of this configuration share. tables: the tables that all layers of the stack share."""
        layer = self.layer
        inputs = None if layer.mixer.tables_per_layer else layer.mixer.prepare(context, tables)
        reader = self._reader_config
        cross = None if reader is None else reader.prepare_cross(context)
        return dataclasses.replace(context, inputs=inputs, cross_inputs=cross)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply to whole rows."""
        with adapter_dropout(context.keys):
            memory, mixer = self._read_memory(context), self._mixer
            context = dataclasses.replace(self._with_own_tables(context), read=memory)
            y, aux, handed = self._mixed(x, lambda y: mixer(y, context), context.keys)
            y, cross_aux, more = self._after_mixer(y, x, memory, context, self._feed_forward)
            if self.convolution is not None and self.convolution_norm is not None:
                y = self.convolution_norm(y + self.convolution(x, context.segments, context.keys))
        return _passed_on(y, handed), added(added(aux, cross_aux), more)

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply to whole rows. Also return a state with room for `length` positions, and the memory."""
        memory, mixer, reader = self._read_memory(context), self._mixer, self._reader
        context = dataclasses.replace(self._with_own_tables(context), read=memory)
        y, state, handed = self._mixed(x, lambda y: mixer.prefill(y, context, length), context.keys)
        memory_state = {} if reader is None else {"encoder": reader.keep(memory)}
        feed_forward: Any = self._feed_forward
        if not self.layer.stateful_feed_forward:
            y, _, _ = self._after_mixer(y, x, memory, context, feed_forward)
        else:
            y, _, own = self._after_mixer(y, x, memory, context, feed_forward.prefill)
            state = LayerState(state, own)
        return _passed_on(y, handed), state, memory_state

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position per row. Also return the updated state."""
        return self._step(self._mixer.step, x, state, memory, context)

    def step_entry(
        self, x: Float[Array, "B 1 D"], state: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Apply to one more position per row. Also return what `State.write` writes to the state."""
        return self._step(self._mixer.step_entry, x, state, memory, context)

    @property
    def _mixer(self) -> Mixer:
        return getattr(self, self.layer.mixer.name)

    @property
    def _feed_forward(self) -> FeedForward | None:
        return None if self.layer.feed_forward is None else getattr(self, self.layer.feed_forward.name)

    @property
    def _cross(self) -> CrossMixer | None:
        return None if self.layer.cross is None else getattr(self, f"cross_{self.layer.cross.name}")

    @property
    def _reader_config(self) -> MixerConfig | None:
        """The configuration of what reads the encoder's output: cross attention, or a mixer that does so itself; None if nothing does."""
        layer = self.layer
        return layer.mixer if layer.cross is None and layer.mixer.reads_memory else layer.cross

    @property
    def _reader(self) -> MemoryReader | None:
        """What reads the encoder's output."""
        reader: Any = self._cross if self.layer.cross is not None else self._mixer
        return None if self._reader_config is None else reader

    def _with_own_tables(self, context: Context) -> Context:
        """Return the context with the inputs that this layer computes from its own tables, if it has any."""
        mixer = self.layer.mixer
        if not mixer.tables_per_layer:
            return context
        tables = {name: getattr(self, name) for name in mixer.tables()}
        return dataclasses.replace(context, inputs=mixer.prepare(context, tables))

    def _step(
        self, step: Callable[..., Any], x: Float[Array, "B 1 D"], state: Any, memory: Any, context: Context
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        encoder = memory.get("encoder")
        context = dataclasses.replace(self._with_own_tables(context), read=encoder)
        feed_forward: Any = self._feed_forward
        stateful = self.layer.stateful_feed_forward
        own = state.mixer if stateful else state
        y, after, handed = self._mixed(x, lambda y: step(y, own, context, memory.get("prompt")), context.keys)
        if not stateful:
            y, _, _ = self._after_mixer(y, x, encoder, context, feed_forward)
        else:
            y, _, forward = self._after_mixer(
                y, x, encoder, context, lambda y, context: feed_forward.step(y, state.feed_forward, context)
            )
            after = LayerState(after, forward)
        return _passed_on(y, handed), after

    def _read_memory(self, context: Context) -> Any:
        reader, config = self._reader, self._reader_config
        if reader is None or config is None:
            return None
        assert context.memory is not None, "the layer needs the encoder's output"
        name = config.name if self.layer.cross is None else f"cross_{config.name}"
        with jax.named_scope(name), of_memory():
            return reader.read(context.memory)

    def _mixed(
        self, x: Float[Array, "B L D"], apply: Callable[..., tuple[Any, Any]], keys: Keys
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply the mixer. Return the sum with its output, what it returns besides, and what it hands on to later layers, or None."""

        def unpacked(y: jax.Array) -> tuple[jax.Array, tuple[Any, Any]]:
            out, extra = apply(y)
            return (out.output, (extra, out.values)) if isinstance(out, Handed) else (out, (extra, None))

        x, (extra, handed) = self._sublayer(self.layer.mixer.name, x, unpacked, keys)
        return x, extra, handed

    def _after_mixer(
        self,
        x: Float[Array, "B L D"],
        start: Float[Array, "B L D"],
        memory: Any,
        context: Context,
        feed_forward: Callable[..., tuple[Any, Any]] | None,
    ) -> tuple[Float[Array, "B L D"], Aux, Any]:
        """Apply the sublayers after the mixer. Also return the terms of cross attention, and what `feed_forward` returns besides its output.

        start: the input of the layer, which they read if they are parallel.
        feed_forward: a method of the feed-forward layer, as a function (input, context); None if there is no such layer.
        """
        cross, read = self._cross, start if self.layer.parallel else None
        aux: Aux = {}
        if cross is not None:
            assert self.layer.cross is not None
            stepping = context.index is not None
            x, aux = self._sublayer(
                f"cross_{self.layer.cross.name}",
                x,
                lambda y: (cross.step(y, memory, context), {}) if stepping else cross(y, memory, context),
                context.keys,
                read,
            )
        extra: Any = {}
        if feed_forward is not None and self.layer.feed_forward is not None:
            name = self.layer.feed_forward.name
            x, extra = self._sublayer(name, x, lambda y: feed_forward(y, context), context.keys, read)
        return constrain(x, ("batch", "length", None)), aux, extra

    def _sublayer(
        self,
        name: str,
        x: Float[Array, "B L D"],
        apply: Callable[..., tuple[Any, Any]],
        keys: Keys,
        read: Float[Array, "B L D"] | None = None,
    ) -> tuple[Float[Array, "B L D"], Any]:
        """Add the output of a sublayer to `x`. read: its input, if that is not x."""
        given = x if read is None else read
        place, norm = self.layer.norms.place, getattr(self, f"{name}_norm", None)
        with jax.named_scope(name):  # the name of the operations in a profile
            y, extra = apply(given if place == "post" or norm is None else norm(given))
            if place in ("sandwich", "output"):
                y = getattr(self, f"{name}_output_norm")(y)
            x = x + dropout(y, self.layer.dropout, keys.next())
            return (norm(x) if place == "post" and norm is not None else x), extra


def _passed_on(x: Float[Array, "B L D"], values: Any) -> Any:
    """Return the output of a layer, with what its mixer hands on if it does."""
    return x if values is None else Handed(x, values)
