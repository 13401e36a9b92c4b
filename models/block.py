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
from t2t.nn.layers import LayerConfig
from t2t.nn.mixers import BuildOptions, Context, CrossMixer, Mixer
from t2t.sharding import constrain


class Block(nnx.Module):
    """Norm, mixer, norm, feed-forward. With an encoder's output to read, a norm and cross attention come between the two.

    The methods are those of the mixer (`t2t.nn.mixers`). `memory` is what rows may share and no step changes: "encoder" is what cross attention keeps of the
    encoder's output, "prompt" is what hypotheses on the same prompt have in common.

    The configurations of the parts name the parameters ("attention", "mlp"). The norms have the same names with the suffix "_norm", and those of outputs with
    the suffix "_output_norm". A mixer may have no norm (`NormConfig.mixer`).
    """

    def __init__(self, layer: LayerConfig, options: BuildOptions) -> None:
        self.layer = layer
        parts: dict[str, nnx.Module] = {layer.mixer.name: layer.mixer.build(options)}
        if layer.cross is not None:
            parts[f"cross_{layer.cross.name}"] = layer.cross.build_cross(options)
        parts[layer.feed_forward.name] = layer.feed_forward.build(options)
        for name, part in parts.items():
            setattr(self, name, part)
            normed = layer.norms.place != "output" and (layer.norms.mixer or name != layer.mixer.name)
            setattr(self, f"{name}_norm", layer.norms.build(options.width) if normed else None)
            if layer.norms.place in ("sandwich", "output"):
                setattr(self, f"{name}_output_norm", layer.norms.build(options.width))
        if layer.mixer.tables_per_layer:
            for name, table in layer.mixer.tables().items():
                setattr(self, name, table.build(options))

    def prepared(self, context: Context, tables: dict[str, Any]) -> Context:
        """Return the context with the inputs that all layers of this configuration share. tables: the tables that all layers of the stack share."""
        layer = self.layer
        inputs = None if layer.mixer.tables_per_layer else layer.mixer.prepare(context, tables)
        cross = None if layer.cross is None else layer.cross.prepare_cross(context)
        return dataclasses.replace(context, inputs=inputs, cross_inputs=cross)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply to whole rows."""
        context, mixer = self._with_own_tables(context), self._mixer
        with adapter_dropout(context.keys):
            y, aux = self._sublayer(self.layer.mixer.name, x, lambda y: mixer(y, context), context.keys)
            y, more = self._after_mixer(y, x, self._read_memory(context), context)
        return y, added(aux, more)

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Any, Any]:
        """Apply to whole rows. Also return a state with room for `length` positions, and the memory."""
        context, mixer = self._with_own_tables(context), self._mixer
        y, state = self._sublayer(self.layer.mixer.name, x, lambda y: mixer.prefill(y, context, length), context.keys)
        memory, cross = self._read_memory(context), self._cross
        memory_state = {} if cross is None else {"encoder": cross.keep(memory)}
        return self._after_mixer(y, x, memory, context)[0], state, memory_state

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
    def _cross(self) -> CrossMixer | None:
        return None if self.layer.cross is None else getattr(self, f"cross_{self.layer.cross.name}")

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
        context = self._with_own_tables(context)
        y, after = self._sublayer(
            self.layer.mixer.name, x, lambda y: step(y, state, context, memory.get("prompt")), context.keys
        )
        return self._after_mixer(y, x, memory.get("encoder"), context)[0], after

    def _read_memory(self, context: Context) -> Any:
        cross = self._cross
        if cross is None:
            return None
        assert context.memory is not None, "cross attention needs the encoder's output"
        assert self.layer.cross is not None
        with jax.named_scope(f"cross_{self.layer.cross.name}"):
            return cross.read(context.memory)

    def _after_mixer(
        self, x: Float[Array, "B L D"], start: Float[Array, "B L D"], memory: Any, context: Context
    ) -> tuple[Float[Array, "B L D"], Aux]:
        """Apply the sublayers after the mixer. start: the input of the layer, which they read if they are parallel."""
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
        name = self.layer.feed_forward.name
        x, more = self._sublayer(name, x, lambda y: getattr(self, name)(y, context), context.keys, read)
        return constrain(x, ("batch", "length", None)), added(aux, more)

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
