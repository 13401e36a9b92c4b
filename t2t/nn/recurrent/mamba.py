"""Mamba (Gu and Dao 2023, https://arxiv.org/abs/2312.00752): a state-space layer whose steps, inputs and outputs depend on the token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from t2t.limits import Few, Length, Width
from t2t.nn.aux import Aux
from t2t.nn.initializers import ONES, Uniform
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Mixer, MixerConfig
from t2t.nn.parameters import parameter
from t2t.nn.recurrent.convolution import CausalConvolution
from t2t.nn.recurrent.selective_scan import selective_scan, selective_step
from t2t.nn.recurrent.time_steps import LogCount, TimeSteps
from t2t.nn.state import State
from t2t.sharding import constrain


@struct.dataclass
class MambaState(State):
    """State of one layer, of a size that does not depend on the length.

    hidden: states of the channels [B N I], float32.
    x:      last inputs of the convolution of size K, [B K-1 I].
    """

    hidden: jax.Array
    x: jax.Array


class Mamba(Mixer):
    """`out(y * silu(gate(u)))`, where y = selective_scan(x, dt, A, b, c) + D x, x is a projection of u after a short convolution and SiLU, and dt, b and c are
    projections of x.

    The decay rates are A = -exp(a_log) for each channel and coordinate of its state, and the time steps dt = softplus(dt_up(dt_down(x)) + dt_bias).
    Steps, decays and states are computed in float32.
    """

    def __init__(self, config: MambaConfig, options: BuildOptions) -> None:
        self.config = config
        width, inner, rank, init = options.width, config.inner, config.dt_rank, options.kernel_init
        linear: Callable[..., Linear] = partial(Linear, quantization=options.quantization)
        self.x = linear(width, inner, ("embed", "mlp"), bias=config.biases, init=init(width))
        self.gate = linear(width, inner, ("embed", "mlp"), bias=config.biases, init=init(width))
        self.convolution = CausalConvolution(inner, config.convolution, axis="mlp", bias=config.convolution_bias)
        self.dt_down = linear(inner, rank, ("mlp", None), bias=False, init=init(inner))
        self.b = linear(inner, config.state_size, ("mlp", None), bias=False, init=init(inner))
        self.c = linear(inner, config.state_size, ("mlp", None), bias=False, init=init(inner))
        self.dt_up = linear(rank, inner, (None, "mlp"), bias=False, init=Uniform(rank**-0.5))
        self.dt_bias = parameter((inner,), ("mlp",), config.time_steps.initializer, decay=False)
        self.a_log = parameter((inner, config.state_size), ("mlp", None), LogCount(), decay=False)
        self.skip = parameter((inner,), ("mlp",), ONES, decay=False)
        self.out = linear(inner, width, ("mlp", "embed"), bias=config.biases, init=init(inner, residual=True))

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows."""
        return self._rows(x, self.x(x), context)[0], {}

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], MambaState]:
        """Mix whole rows, and return the state after them. `length` is not used: the state has one size."""
        given = self.x(x)
        y, hidden = self._rows(x, given, context)
        return y, MambaState(hidden=hidden, x=self.convolution.past(given, context.segments))

    def step(
        self, x: Float[Array, "B 1 D"], state: MambaState, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], MambaState]:
        """Mix one more token per row."""
        own, past = self.convolution.step(self.x(x), state.x)
        own = jax.nn.silu(own)
        dt, b, c = self._terms(own)
        y, hidden = selective_step(own[:, 0], dt[:, 0], self._a, b[:, 0], c[:, 0], state.hidden)
        return self._output(x, y[:, None], own), MambaState(hidden=hidden, x=past)

    def _rows(
        self, u: Float[Array, "B L D"], given: Float[Array, "B L I"], context: Context
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B N I"]]:
        """Return the output and the last state of whole rows. given: the input of the convolution."""
        x = jax.nn.silu(self.convolution(constrain(given, ("batch", "length", "mlp")), context.segments))
        dt, b, c = self._terms(x)
        y, hidden = selective_scan(x, dt, self._a, b, c, context.segments, chunk=self.config.chunk)
        return self._output(u, y, x), hidden

    @property
    def _a(self) -> Float[Array, "N I"]:
        """The decay rates, below 0."""
        return -jnp.exp(self.a_log[...]).T

    def _terms(
        self, x: Float[Array, "B L I"]
    ) -> tuple[Float[Array, "B L I"], Float[Array, "B L N"], Float[Array, "B L N"]]:
        """Return dt in float32, b and c."""
        step = self.dt_up(self.dt_down(x)).astype(jnp.float32)
        return jax.nn.softplus(step + self.dt_bias[...]), self.b(x), self.c(x)

    def _output(
        self, u: Float[Array, "B L D"], y: Float[Array, "B L I"], x: Float[Array, "B L I"]
    ) -> Float[Array, "B L D"]:
        """Add the skip connection, apply the gate, and project to the residual stream."""
        gate = jax.nn.silu(self.gate(u).astype(jnp.float32))
        return self.out(((y + self.skip[...] * x) * gate).astype(u.dtype))


@dataclass(frozen=True, kw_only=True)
class MambaConfig(MixerConfig):
    """A Mamba layer. It sees earlier tokens only, and decodes with a state of constant size.

    Args:
        inner: number of channels I, usually twice the width of the residual stream.
        state_size: size of the state of a channel, N.
        dt_rank: rank of the projection to time steps, usually 1/16 of the width of the residual stream.
        convolution: number of tokens that the short convolution reads.
        convolution_bias: add a bias to the short convolution.
        biases: add a bias to the first and last matrix products.
        chunk: number of tokens that training scans in parallel. It changes speed and memory, not the result.
        time_steps: initial time steps.
    """

    name: ClassVar[str] = "mamba"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    inner: Width
    state_size: Width = 16
    dt_rank: Width
    convolution: Few = 4
    convolution_bias: bool = True
    biases: bool = False
    chunk: Length = 64
    time_steps: TimeSteps = TimeSteps()

    def build(self, options: BuildOptions) -> Mamba:
        """Return the layer."""
        return Mamba(self, options)
