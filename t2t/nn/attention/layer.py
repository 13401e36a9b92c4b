"""Multi-head self-attention and cross attention as mixers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from t2t.nn.attention.call import Bias, attention
from t2t.nn.attention.inputs import Inputs, bounded
from t2t.nn.attention.state import KeyValues, WindowKeyValues
from t2t.nn.attention.step import Shared, attend_step
from t2t.nn.aux import Aux
from t2t.nn.disentangled import position_bias
from t2t.nn.dropout import dropout
from t2t.nn.linear import Linear
from t2t.nn.masks import Mask
from t2t.nn.mixers import BuildOptions, Context, CrossMixer, MemoryReader, Mixer
from t2t.nn.norms import LayerNorm, RMSNorm, norm
from t2t.nn.parameters import parameter
from t2t.nn.rotary import RotaryAngles, rotate
from t2t.sharding import constrain

if TYPE_CHECKING:
    from t2t.nn.attention.config import AttentionConfig


class Projections(nnx.Module):
    """The projections of attention, and attention on their results.

    width, memory_width: width of the inputs of queries, and of the inputs of keys and values.
    Only the products with kernels are quantized, not the logits and weighted sums.
    """

    def __init__(self, config: AttentionConfig, options: BuildOptions, memory_width: int) -> None:
        self.config = config
        self.scale = config.logit_scale
        width, init = options.width, options.kernel_init
        inner, key_width = config.num_heads * config.head_dim, config.key_heads * config.head_dim
        shrink = 1.0 if config.scaled else config.head_dim**-0.5
        linear: Callable[..., Linear] = partial(Linear, bias=config.biases, quantization=options.quantization)
        last_bias = config.biases if config.output_bias is None else config.output_bias
        self.query = linear(width, inner, ("embed", "heads"), init=init(width, shrink=shrink))
        self.key = linear(memory_width, key_width, ("embed", "heads"), init=init(memory_width))
        self.value = linear(memory_width, key_width, ("embed", "heads"), init=init(memory_width))
        self.gate = linear(width, inner, ("embed", "heads"), init=init(width)) if config.gate else None
        self.out = linear(inner, width, ("heads", "embed"), bias=last_bias, init=init(inner, residual=True))
        self.sinks = parameter((config.num_heads,), ("heads",), init(width), decay=False) if config.sinks else None
        epsilon, kind = config.norm_epsilon, config.sub_norm
        self.sub_norm = None if kind is None else norm(kind, inner, epsilon, axis="heads")
        self.query_norm = self._norm(config.num_heads)
        self.key_norm = self._norm(config.key_heads)

    def queries(self, x: Float[Array, "B L D"], angles: RotaryAngles | None = None) -> Float[Array, "B L H D"]:
        """Return the queries, rotated if there are angles."""
        queries = self._normed(self.query(x), self.query_norm, self.config.num_heads)
        return queries if angles is None else rotate(queries, angles)

    def keys_values(
        self, x: Float[Array, "B k D"], angles: RotaryAngles | None = None
    ) -> tuple[Float[Array, "B k K D"], Float[Array, "B k K D"]]:
        """Return the keys and values. Keys are rotated if there are angles."""
        # Keys and values have whole rows on every device. If the mesh divides rows along their length, the parts are gathered here.
        keys = self._normed(self.key(x), self.key_norm, self.config.key_heads, None)
        values = self._split(self.value(x), self.config.key_heads, None)
        return (keys if angles is None else rotate(keys, angles)), values

    def attend(
        self,
        x: Float[Array, "B q D"],
        keys: jax.Array,
        values: jax.Array,
        mask: Mask,
        bias: jax.Array | Bias | None,
        dropout_key: jax.Array | None,
        angles: RotaryAngles | None = None,
    ) -> Float[Array, "B q D"]:
        """Attend with the queries of whole rows."""
        out = attention(
            self.queries(x, angles),
            keys,
            values,
            mask=mask,
            bias=bias,
            scale=self.scale,
            softcap=self.config.softcap,
            sinks=self.sink_logits,
            dropout=self.config.dropout,
            dropout_key=dropout_key,
            backend=self.config.backend,
            block=self.config.block,
        )
        return self.joined(out, x)

    @property
    def sink_logits(self) -> Float[Array, "H"] | None:
        """The logit of each head's sink, or None."""
        return None if self.sinks is None else self.sinks[...]

    def joined(self, out: Float[Array, "B q H D"], x: Float[Array, "B q D"]) -> Float[Array, "B q D"]:
        """Merge the heads, apply the norm and the gate if there are any, and project to the residual stream. x: input of the queries."""
        merged = out.reshape(*out.shape[:2], -1)
        merged = merged if self.sub_norm is None else self.sub_norm(merged)
        return self.out(merged if self.gate is None else merged * jax.nn.sigmoid(self.gate(x)))

    def _norm(self, heads: int) -> RMSNorm | LayerNorm | None:
        config = self.config
        if config.qk_norm is None:
            return None
        size, axis = (heads * config.head_dim, "heads") if config.qk_norm_whole else (config.head_dim, "kv")
        return norm(config.qk_norm, size, config.norm_epsilon, axis=axis)

    def _normed(
        self, x: Float[Array, "B L HD"], norm: RMSNorm | LayerNorm | None, heads: int, length: str | None = "length"
    ) -> Float[Array, "B L H D"]:
        """Split into heads, and apply the norm of queries or of keys."""
        if norm is None:
            return self._split(x, heads, length)
        if self.config.qk_norm_whole:
            return self._split(norm(x), heads, length)
        return norm(self._split(x, heads, length))

    def _split(self, x: Float[Array, "B L HD"], heads: int, length: str | None = "length") -> Float[Array, "B L H D"]:
        return constrain(x.reshape(*x.shape[:2], heads, self.config.head_dim), ("batch", length, "heads", None))


class Attention(Projections, Mixer):
    """Self-attention. Its `Context.inputs` are `t2t.nn.attention.inputs.Inputs`."""

    def __init__(self, config: AttentionConfig, options: BuildOptions) -> None:
        super().__init__(config, options, options.width)
        positions, inner = config.disentangled, config.num_heads * config.head_dim
        own = config.positions == "disentangled" and not positions.shared_projections
        projection: Callable[[], Linear] = partial(
            Linear,
            options.width,
            inner,
            ("embed", "heads"),
            bias=config.biases,
            init=options.kernel_init(options.width),
            quantization=options.quantization,
        )
        self.position_key = projection() if own and positions.content_to_position else None
        self.position_query = projection() if own and positions.position_to_content else None

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Attend over the same rows."""
        keys, values = self.keys_values(x, _inputs(context).angles)
        return self._rows(x, context, keys, values), {}

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], KeyValues]:
        """Attend over the same rows. The state holds their keys and values, with a window only those of the last tokens."""
        keys, values = self.keys_values(x, _inputs(context).angles)
        y, window = self._rows(x, context, keys, values), bounded(context, self.config.window)
        if window is not None:
            counts = jnp.sum(jnp.asarray(context.segments) > 0, axis=1)
            return y, WindowKeyValues.of_prompt(keys, values, counts, window=window, length=length)
        room = ((0, 0), (0, 0), (0, length - x.shape[1]), (0, 0))
        key, value = (jnp.pad(jnp.swapaxes(z, 1, 2), room) for z in (keys, values))
        return y, KeyValues(key=key, value=value)

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Attend over the current and earlier positions. The cache is written before it is read, so that it need not be copied."""
        assert context.index is not None, "a step needs each row's index"
        state = state.write(self._entry(x, context), context.index)
        return self._step(x, state, context, shared, None), state

    def step_entry(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Any]:
        """Attend like `step`. Return the position's key and value for the cache."""
        assert context.index is not None, "a step needs each row's index"
        entry = self._entry(x, context)
        return self._step(x, state, context, shared, (state.place(context.index), entry.key, entry.value)), entry

    def _rows(
        self, x: Float[Array, "B L D"], context: Context, keys: jax.Array, values: jax.Array
    ) -> Float[Array, "B L D"]:
        inputs = _inputs(context)
        bias = inputs.bias
        if inputs.vectors is not None:
            vectors = dropout(inputs.vectors, self.config.position_dropout, context.keys.next())
            bias = self._position_bias(vectors.astype(x.dtype), keys)
        return self.attend(x, keys, values, inputs.mask, bias, context.keys.next(), inputs.angles)

    def _position_bias(self, vectors: Float[Array, "N D"], keys: Float[Array, "B k H D"]) -> Bias:
        """Return the function that computes the bias of disentangled positions. vectors: those of relative positions."""
        disentangled, heads = self.config.disentangled, (self.config.num_heads, self.config.head_dim)

        def projected(wanted: bool, own: Linear | None, shared: Linear) -> Float[Array, "N H D"] | None:
            if not wanted:
                return None
            projection = shared if own is None else own
            return constrain(projection(vectors).reshape(-1, *heads), (None, "heads", None))

        position_keys = projected(disentangled.content_to_position, self.position_key, self.key)
        position_queries = projected(disentangled.position_to_content, self.position_query, self.query)
        scaled = None if position_queries is None else position_queries * self.scale

        def bias(start: int | jax.Array, queries: Float[Array, "B q H D"]) -> Float[Array, "B H q k"]:
            return position_bias(disentangled, start, queries, keys, position_keys, scaled)

        return bias

    def _entry(self, x: Float[Array, "B 1 D"], context: Context) -> KeyValues:
        key, value = (jnp.swapaxes(new, 1, 2) for new in self.keys_values(x, _inputs(context).angles))
        return KeyValues(key=key, value=value)

    def _step(
        self, x: Float[Array, "B 1 D"], state: KeyValues, context: Context, prompt: Any, own: Any
    ) -> Float[Array, "B 1 D"]:
        inputs = _inputs(context)
        out = attend_step(
            self.queries(x, inputs.angles),
            state.key,
            state.value,
            mask=inputs.mask,
            bias=inputs.bias,  # type: ignore[arg-type]  # of one query, an array
            scale=self.scale,
            softcap=self.config.softcap,
            sinks=self.sink_logits,
            own=own,
            shared=self._shared(context, prompt),
        )
        return self.joined(out, x)

    def _shared(self, context: Context, prompt: Any) -> list[Shared]:
        """Return the keys and values that rows may share in a step: those of their prompt. prompt: the result of `State.shared`, or None."""
        if prompt is None:
            return []
        inputs = _inputs(context)
        assert inputs.prompt_mask is not None, "a shared prompt needs a mask"
        return [Shared(prompt["key"], prompt["value"], inputs.prompt_mask, inputs.prompt_bias)]


class EncoderKeys(Projections, MemoryReader):
    """Projections that also compute keys and values of an encoder's output, without positions."""

    def read(self, memory: Float[Array, "B k M"]) -> tuple[Float[Array, "B k K D"], Float[Array, "B k K D"]]:
        """Return the keys and values of the encoder's output."""
        return self.keys_values(memory)

    def keep(self, memory: Any) -> dict[str, Float[Array, "B K k D"]]:
        """Return the keys and values in the layout that steps use."""
        keys, values = memory
        return {"key": jnp.swapaxes(keys, 1, 2), "value": jnp.swapaxes(values, 1, 2)}


class CrossAttention(EncoderKeys, CrossMixer):
    """Cross attention to an encoder's output. Its `Context.cross_inputs` are the mask over the encoder's tokens."""

    def __init__(self, config: AttentionConfig, options: BuildOptions) -> None:
        super().__init__(config, options, options.memory_width or options.width)

    def __call__(self, x: Float[Array, "B L D"], memory: Any, context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Attend to the encoder's output."""
        keys, values = memory
        return self.attend(x, keys, values, context.cross_inputs, None, context.keys.next()), {}

    def step(self, x: Float[Array, "R 1 D"], memory: Any, context: Context) -> Float[Array, "R 1 D"]:
        """Attend to the encoder's output with one position per row."""
        out = attend_step(
            self.queries(x),
            memory["key"],
            memory["value"],
            mask=context.cross_inputs,
            scale=self.scale,
            softcap=self.config.softcap,
        )
        return self.joined(out, x)


def _inputs(context: Context) -> Inputs:
    assert isinstance(context.inputs, Inputs), "attention needs the result of AttentionConfig.prepare"
    return context.inputs
