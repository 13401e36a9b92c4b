"""Mamba-2 (Dao and Gu 2024, "Transformers are SSMs", https://arxiv.org/abs/2405.21060): a state-space layer with one decay rate for each head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Few, Length, NormEpsilon, Width
from t2t.nn.aux import Aux
from t2t.nn.initializers import ONES
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Mixer, MixerConfig
from t2t.nn.norms import RMSNorm
from t2t.nn.parameters import parameter
from t2t.nn.recurrent.convolution import CausalConvolution
from t2t.nn.recurrent.ssd import ssd, ssd_step
from t2t.nn.recurrent.time_steps import LogUniform, TimeSteps
from t2t.nn.state import State
from t2t.sharding import constrain


@struct.dataclass
class Mamba2State(State):
    """State of one layer, of a size that does not depend on the length. K is the size of the convolution.

    hidden: states of the heads [B H P N], float32.
    x, b, c: last inputs of the convolutions, [B K-1 H*P], [B K-1 G*N] and [B K-1 G*N].
    """

    hidden: jax.Array
    x: jax.Array
    b: jax.Array
    c: jax.Array


class _Inputs(NamedTuple):
    """Projections of the residual stream. gate and x: [B L H*P]; b and c: [B L G*N]; dt: [B L H], float32 and positive."""

    gate: jax.Array
    x: jax.Array
    b: jax.Array
    c: jax.Array
    dt: jax.Array


class Mamba2(Mixer):
    """`out(norm(y * silu(gate(u))))`, where y = ssd(x, dt, A, b, c) + D x, and x, b and c are projections of u after a short convolution and SiLU.

    The decay rates are A = -exp(a_log), one for each head, and the time steps are dt = softplus(dt(u) + dt_bias). The norm has one mean for each group.
    Decays, states and the norm are computed in float32.
    """

    def __init__(self, config: Mamba2Config, options: BuildOptions) -> None:
        self.config = config
        width, inner, shared = options.width, config.inner, config.groups * config.state_size
        linear: Callable[..., Linear] = partial(Linear, bias=config.biases, quantization=options.quantization)
        init = options.kernel_init(width)
        self.gate = linear(width, inner, ("embed", "heads"), init=init)
        self.x = linear(width, inner, ("embed", "heads"), init=init)
        self.b = linear(width, shared, ("embed", None), init=init)
        self.c = linear(width, shared, ("embed", None), init=init)
        self.dt = linear(width, config.num_heads, ("embed", "heads"), init=init)
        convolution = partial(CausalConvolution, size=config.convolution, bias=config.convolution_bias)
        self.x_convolution = convolution(inner, axis="heads")
        self.b_convolution = convolution(shared, axis=None)
        self.c_convolution = convolution(shared, axis=None)
        per_head = partial(parameter, (config.num_heads,), ("heads",), decay=False)
        self.a_log = per_head(LogUniform(1.0, 16.0))
        self.dt_bias = per_head(config.time_steps.initializer)
        self.skip = per_head(ONES)
        self.norm = RMSNorm(inner, config.norm_epsilon, "heads", groups=config.groups)
        self.out = linear(inner, width, ("heads", "embed"), init=options.kernel_init(inner, residual=True))

    def __call__(self, x: Float[Array, "B L D"], context: Context) -> tuple[Float[Array, "B L D"], Aux]:
        """Mix whole rows."""
        return self._rows(self._inputs(x), context)[0], {}

    def prefill(
        self, x: Float[Array, "B L D"], context: Context, length: int
    ) -> tuple[Float[Array, "B L D"], Mamba2State]:
        """Mix whole rows, and return the state after them. `length` is not used: the state has one size."""
        given, segments = self._inputs(x), context.segments
        y, hidden = self._rows(given, context)
        return y, Mamba2State(
            hidden=hidden,
            x=self.x_convolution.past(given.x, segments),
            b=self.b_convolution.past(given.b, segments),
            c=self.c_convolution.past(given.c, segments),
        )

    def step(
        self, x: Float[Array, "B 1 D"], state: Mamba2State, context: Context, shared: Any = None
    ) -> tuple[Float[Array, "B 1 D"], Mamba2State]:
        """Mix one more token per row."""
        given = self._inputs(x)
        own, past_x = self.x_convolution.step(given.x, state.x)
        b, past_b = self.b_convolution.step(given.b, state.b)
        c, past_c = self.c_convolution.step(given.c, state.c)
        heads = self._heads(own)
        y, hidden = ssd_step(
            heads[:, 0], given.dt[:, 0], self._a, self._groups(b)[:, 0], self._groups(c)[:, 0], state.hidden
        )
        return self._output(y[:, None], heads, given.gate), Mamba2State(hidden=hidden, x=past_x, b=past_b, c=past_c)

    def _inputs(self, u: Float[Array, "B L D"]) -> _Inputs:
        dt = jax.nn.softplus(self.dt(u).astype(jnp.float32) + self.dt_bias[...])
        return _Inputs(gate=self.gate(u), x=self.x(u), b=self.b(u), c=self.c(u), dt=dt)

    def _rows(self, given: _Inputs, context: Context) -> tuple[Float[Array, "B L D"], Float[Array, "B H P N"]]:
        segments = context.segments
        x = self._heads(self.x_convolution(given.x, segments))
        b = self._groups(self.b_convolution(given.b, segments))
        c = self._groups(self.c_convolution(given.c, segments))
        y, hidden = ssd(x, given.dt, self._a, b, c, segments, chunk=self.config.chunk)
        return self._output(y, x, given.gate), hidden

    @property
    def _a(self) -> Float[Array, "H"]:
        """The decay rates, below 0."""
        return -jnp.exp(self.a_log[...])

    def _heads(self, x: Float[Array, "B L HP"]) -> Float[Array, "B L H P"]:
        """Apply SiLU after the convolution, and split into heads."""
        split = jax.nn.silu(x).reshape(*x.shape[:2], self.config.num_heads, self.config.head_dim)
        return constrain(split, ("batch", "length", "heads", None))

    def _groups(self, x: Float[Array, "B L GN"]) -> Float[Array, "B L G N"]:
        return jax.nn.silu(x).reshape(*x.shape[:2], self.config.groups, self.config.state_size)

    def _output(
        self, y: Float[Array, "B L H P"], x: Float[Array, "B L H P"], gate: Float[Array, "B L HP"]
    ) -> Float[Array, "B L D"]:
        """Add the skip connection, apply the gate and the norm, and project to the residual stream."""
        whole = (y + self.skip[...][:, None] * x).reshape(gate.shape)
        normed = self.norm(whole * jax.nn.silu(gate.astype(jnp.float32)))
        return self.out(normed.astype(gate.dtype))


@dataclass(frozen=True, kw_only=True)
class Mamba2Config(MixerConfig):
    """A Mamba-2 layer. It sees earlier tokens only, and decodes with a state of constant size.

    Args:
        num_heads: number of heads H. Each has a decay rate and a state of head_dim x state_size.
        head_dim: width of a head P. num_heads * head_dim is usually twice the width of the residual stream.
        state_size: size of the state for each coordinate of a head, N.
        groups: number of groups of heads, G. Heads of a group share the vectors that write to the state and read it.
        convolution: number of tokens that the short convolution reads.
        convolution_bias: add a bias to the short convolution.
        biases: add a bias to the matrix products.
        chunk: number of tokens of a chunk in training. It changes the speed, not the result.
        norm_epsilon: epsilon of the norm before the last product.
        time_steps: initial time steps.
    """

    name: ClassVar[str] = "mamba2"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    num_heads: Width
    head_dim: Width = 64
    state_size: Width = 128
    groups: Width = 1
    convolution: Few = 4
    convolution_bias: bool = True
    biases: bool = False
    chunk: Length = 128
    norm_epsilon: NormEpsilon = 1e-5
    time_steps: TimeSteps = TimeSteps()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_heads % self.groups:
            near = [n for n in range(1, self.num_heads + 1) if self.num_heads % n == 0]
            best = min(near, key=lambda n: abs(n - self.groups))
            raise UserError(
                f"mixer.groups is {self.groups}, which does not divide mixer.num_heads = {self.num_heads}. Nearest: {best}."
            )

    @property
    def inner(self) -> int:
        """Width of all heads."""
        return self.num_heads * self.head_dim

    @property
    def keeps_products(self) -> bool:
        """False: the backward pass computes the products of a chunk again."""
        return False

    def build(self, options: BuildOptions) -> Mamba2:
        """Return the layer."""
        return Mamba2(self, options)
