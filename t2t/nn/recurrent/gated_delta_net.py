"""Gated DeltaNet (Yang et al. 2024, https://arxiv.org/abs/2412.06464), as in Qwen3-Next."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Length, NormEpsilon, Range, Width
from t2t.nn.aux import Aux
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Mixer, MixerConfig
from t2t.nn.norms import RMSNorm
from t2t.nn.parameters import parameter
from t2t.nn.recurrent.convolution import CausalConvolution
from t2t.nn.recurrent.delta_rule import DeltaTerms, after, over_rows
from t2t.nn.recurrent.time_steps import LogUniform, TimeSteps
from t2t.nn.state import State
from t2t.sharding import constrain

KEY_EPSILON = 1e-6
"""Added to the sum of squares of a query or key before it is scaled to length 1."""


@struct.dataclass
class DeltaState(State):
    """The memory of each head after the tokens so far, in float32, and the last inputs of the convolutions. Its size does not depend on their number."""

    memory: Float[Array, "B H K V"]
    query: Float[Array, "B C E"]
    key: Float[Array, "B C E"]
    value: Float[Array, "B C F"]


class GatedDeltaNet(Mixer):
    """Heads with the gated delta rule, short convolutions of queries, keys and values, a norm of each head's output, and a gate.

    The decay of a head is exp(-exp(a_log) * softplus(decay(x) + dt_bias)), and its rate is sigmoid(rate(x)). The products that compute them are never
    quantized. The initial decays are those of the authors' code: a head keeps its memory for some tokens to thousands.
    """

    def __init__(self, config: GatedDeltaNetConfig, options: BuildOptions) -> None:
        self.config = config
        width, heads = options.width, config.num_heads
        keys, values = config.key_heads * config.key_dim, heads * config.value_dim
        init = options.kernel_init(width)
        plain = partial(Linear, width, axes=("embed", "heads"), bias=False, init=init)
        linear = partial(plain, quantization=options.quantization)
        self.query, self.key, self.value, self.gate = linear(keys), linear(keys), linear(values), linear(values)
        self.rate, self.decay = plain(heads), plain(heads)
        convolution = partial(CausalConvolution, size=config.convolution, axis="heads", bias=False)
        self.query_convolution, self.key_convolution = convolution(keys), convolution(keys)
        self.value_convolution = convolution(values)
        self.a_log = parameter((heads,), ("heads",), LogUniform(0.01, 16.0), decay=False)
        self.dt_bias = parameter((heads,), ("heads",), TimeSteps().initializer, decay=False)
        self.head_norm = RMSNorm(config.value_dim, config.norm_epsilon, axis="kv")
        last = options.kernel_init(values, residual=True)
        self.out = Linear(values, width, ("heads", "embed"), bias=False, init=last, quantization=options.quantization)

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows."""
        return self._rows(x, context)[0], {}

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], DeltaState]:
        """Mix whole rows. The state is that after the last token of each row."""
        y, memory, (query, key, value) = self._rows(x, context)
        return y, DeltaState(
            memory=memory,
            query=self.query_convolution.past(query, context.segments),
            key=self.key_convolution.past(key, context.segments),
            value=self.value_convolution.past(value, context.segments),
        )

    def step(
        self, x: Float[Array, "B 1 D"], state: Any, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], DeltaState]:
        """Mix one more position per row."""
        query, past_query = self.query_convolution.step(self.query(x), state.query)
        key, past_key = self.key_convolution.step(self.key(x), state.key)
        value, past_value = self.value_convolution.step(self.value(x), state.value)
        read, memory = after(state.memory, self._terms(x, query, key, value))
        return self._output(x, read), DeltaState(memory=memory, query=past_query, key=past_key, value=past_value)

    def _rows(
        self, x: Float[Array, "B L D"], context: Context
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B H K V"], tuple[jax.Array, jax.Array, jax.Array]]:
        inputs = self.query(x), self.key(x), self.value(x)
        convolutions = self.query_convolution, self.key_convolution, self.value_convolution
        mixed = [filtered(y, context.segments) for filtered, y in zip(convolutions, inputs, strict=True)]
        read, memory = over_rows(self._terms(x, *mixed), context.segments, self.config.chunk)
        return self._output(x, read), memory, inputs

    def _terms(self, x: Float[Array, "B L D"], query: jax.Array, key: jax.Array, value: jax.Array) -> DeltaTerms:
        """Return what tokens read and write. query, key, value: results of the convolutions, [B L E] and [B L F]."""
        config = self.config
        times = config.num_heads // config.key_heads
        # Each head of the keys serves consecutive heads of the values.
        query, key = (
            jnp.repeat(_unit(self._split(jax.nn.silu(y), config.key_heads)), times, axis=2) for y in (query, key)
        )
        step = jax.nn.softplus(self.decay(x).astype(jnp.float32) + self.dt_bias[...])
        return DeltaTerms(
            query=query * config.key_dim**-0.5,
            key=key,
            value=self._split(jax.nn.silu(value), config.num_heads),
            log_decay=-jnp.exp(self.a_log[...]) * step,
            rate=jax.nn.sigmoid(self.rate(x).astype(jnp.float32)),
        )

    def _output(self, x: Float[Array, "B L D"], read: Float[Array, "B L H V"]) -> Float[Array, "B L D"]:
        """Normalize what each head read, multiply it by the gate, and project it."""
        normal = self.head_norm(read).reshape(*x.shape[:2], -1).astype(x.dtype)
        return self.out(normal * jax.nn.silu(self.gate(x)))

    def _split(self, x: Float[Array, "B L HD"], heads: int) -> Float[Array, "B L H D"]:
        return constrain(x.reshape(*x.shape[:2], heads, -1), ("batch", "length", "heads", None))


def _unit(x: Float[Array, "B L H K"]) -> Float[Array, "B L H K"]:
    """Return vectors of length 1, in float32."""
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True) + KEY_EPSILON)


@dataclass(frozen=True, kw_only=True)
class GatedDeltaNetConfig(MixerConfig):
    """Gated DeltaNet.

    Args:
        num_heads: number of heads of the values, each with a memory of its own.
        num_key_heads: number of heads of queries and keys; each serves num_heads / num_key_heads heads of the values. None means the same as `num_heads`.
        key_dim: width of a head's queries and keys.
        value_dim: width of a head's values.
        convolution: number of tokens that the convolutions of queries, keys and values read, the token itself included.
        chunk: length of a chunk in training. The result does not depend on it.
        norm_epsilon: epsilon of the norm of each head's output.
    """

    name: ClassVar[str] = "gated_delta_net"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    num_heads: Width
    num_key_heads: Width | None = None
    key_dim: Width = 128
    value_dim: Width = 128
    convolution: Annotated[int, Range(1, 255)] = 4
    chunk: Length = 64
    norm_epsilon: NormEpsilon = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads % self.key_heads:
            near = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            best = min(near, key=lambda n: abs(n - self.key_heads))
            raise UserError(
                f"num_key_heads is {self.key_heads} (GatedDeltaNetConfig.num_key_heads), which does not divide num_heads = {self.num_heads}."
                f" Nearest: {best}."
            )

    @property
    def key_heads(self) -> int:
        """Number of heads of queries and keys."""
        return self.num_heads if self.num_key_heads is None else self.num_key_heads

    def build(self, options: BuildOptions) -> GatedDeltaNet:
        """Return the layer."""
        return GatedDeltaNet(self, options)

    def canonical(self) -> GatedDeltaNetConfig:
        """Return the configuration with the default length of chunks."""
        return replace(self, chunk=GatedDeltaNetConfig.chunk)
