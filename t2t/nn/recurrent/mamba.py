"""Mamba (Gu and Dao 2023, https://arxiv.org/abs/2312.00752): a state-space layer whose steps, inputs and outputs depend on the token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, struct
from jaxtyping import Array, Float, Int

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
from t2t.types import Array as AnyArray


@struct.dataclass
class MambaState(State):
    """State of one layer, of a size that does not depend on the length.

    hidden: states of the channels [B N I], float32.
    x:      last inputs of the convolution of size K, [B K-1 I].
    """

    hidden: jax.Array
    x: jax.Array


class Selection(nnx.Module):
    """`y + D x`, where y = selective_scan(x, dt, A, b, c), x is the input after a short convolution and SiLU, and dt, b and c are projections of x.

    The decay rates are A = -exp(a_log) for each channel and coordinate of its state, and the time steps dt = softplus(dt_up(dt_down(x)) + dt_bias).
    Steps, decays and states are computed in float32.
    """

    def __init__(self, config: MambaConfig, options: BuildOptions) -> None:
        self.config = config
        inner, rank, init = config.inner, config.dt_rank, options.kernel_init
        linear: Callable[..., Linear] = partial(Linear, quantization=options.quantization)
        self.convolution = CausalConvolution(inner, config.convolution, axis="mlp", bias=config.convolution_bias)
        self.dt_down = linear(inner, rank, ("mlp", None), bias=False, init=init(inner))
        self.b = linear(inner, config.state_size, ("mlp", None), bias=False, init=init(inner))
        self.c = linear(inner, config.state_size, ("mlp", None), bias=False, init=init(inner))
        self.dt_up = linear(rank, inner, (None, "mlp"), bias=False, init=Uniform(rank**-0.5))
        self.dt_bias = parameter((inner,), ("mlp",), config.time_steps.initializer, decay=False)
        self.a_log = parameter((inner, config.state_size), ("mlp", None), LogCount(), decay=False)
        self.skip = parameter((inner,), ("mlp",), ONES, decay=False)

    def scanned(
        self, given: Float[Array, "B L I"], segments: Int[AnyArray, "B L"]
    ) -> tuple[Float[Array, "B L I"], Float[Array, "B N I"]]:
        """Return the output in float32 and the last state of whole rows. given: the input of the convolution."""
        x = jax.nn.silu(self.convolution(given, segments))
        dt, b, c = self._terms(x)
        y, hidden = selective_scan(x, dt, self._a, b, c, segments, chunk=self.config.chunk)
        return y + self.skip[...] * x, hidden

    def stepped(self, given: Float[Array, "B 1 I"], state: MambaState) -> tuple[Float[Array, "B 1 I"], MambaState]:
        """Return the output in float32 and the new state for one more token per row."""
        x, past = self.convolution.step(given, state.x)
        x = jax.nn.silu(x)
        dt, b, c = self._terms(x)
        y, hidden = selective_step(x[:, 0], dt[:, 0], self._a, b[:, 0], c[:, 0], state.hidden)
        return y[:, None] + self.skip[...] * x, MambaState(hidden=hidden, x=past)

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


class Mamba(Selection, Mixer):
    """`out(selection(x(u)) * silu(gate(u)))`.

    In an encoder, the output of a second selection that reads each text from its end to its beginning is added to that of the first, before the gate: BiMamba
    with shared first and last products (Caduceus, Schiff et al. 2024, section 3.2, https://arxiv.org/abs/2403.03234). Its parameters are in `reverse`.
    """

    def __init__(self, config: MambaConfig, options: BuildOptions) -> None:
        super().__init__(config, options)
        width, inner, init = options.width, config.inner, options.kernel_init
        linear: Callable[..., Linear] = partial(Linear, bias=config.biases, quantization=options.quantization)
        self.x = linear(width, inner, ("embed", "mlp"), init=init(width))
        self.gate = linear(width, inner, ("embed", "mlp"), init=init(width))
        self.out = linear(inner, width, ("mlp", "embed"), init=init(inner, residual=True))
        self.reverse = Selection(config, options) if options.bidirectional else None

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
        y, state = self.stepped(self.x(x), state)
        return self._output(x, y), state

    def _rows(
        self, u: Float[Array, "B L D"], given: Float[Array, "B L I"], context: Context
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B N I"]]:
        """Return the output and the last state of whole rows. given: the input of the convolution."""
        given = constrain(given, ("batch", "length", "mlp"))
        segments = jnp.asarray(context.segments)
        y, hidden = self.scanned(given, segments)
        if self.reverse is not None:
            # A row read from its end has its texts in the opposite order, each reversed, so the state is reset where each begins.
            backward, _ = self.reverse.scanned(jnp.flip(given, axis=1), jnp.flip(segments, axis=1))
            y = y + jnp.flip(backward, axis=1)
        return self._output(u, y), hidden

    def _output(self, u: Float[Array, "B L D"], y: Float[Array, "B L I"]) -> Float[Array, "B L D"]:
        """Apply the gate, and project to the residual stream."""
        gate = jax.nn.silu(self.gate(u).astype(jnp.float32))
        return self.out((y * gate).astype(u.dtype))


@dataclass(frozen=True, kw_only=True)
class MambaConfig(MixerConfig):
    """A Mamba layer. In a decoder it sees earlier tokens only, and decodes with a state of constant size. In an encoder it reads each text in both directions.

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
    capabilities: ClassVar[Capabilities] = Capabilities(bidirectional=True, packing=True, decoding=True)
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
