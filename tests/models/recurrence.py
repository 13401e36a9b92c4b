"""User-defined layers with their configurations: a mixer (gated linear recurrence), and a feed-forward layer that reports a loss term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct

from t2t.nn.aux import Term
from t2t.nn.feed_forward import FeedForward, FeedForwardConfig
from t2t.nn.linear import Linear
from t2t.nn.mixers import BuildOptions, Capabilities, Context, Mixer, MixerConfig
from t2t.nn.state import State


@struct.dataclass
class LastHidden(State):
    hidden: Any


class Recurrence(Mixer):
    """Gated linear recurrence: h <- a h + (1 - a) v with a = sigmoid(decay(x)) and v = value(x); the output is out(h silu(gate(x)))."""

    def __init__(self, inner: int, options: BuildOptions) -> None:
        def linear() -> Linear:
            return Linear(options.width, inner, ("embed", "mlp"), bias=True, init=options.kernel_init(options.width))

        self.decay, self.value, self.gate = linear(), linear(), linear()
        init = options.kernel_init(inner, residual=True)
        self.out = Linear(inner, options.width, ("mlp", "embed"), bias=False, init=init)

    def __call__(self, x, context: Context):
        return self._rows(x, context)[0], {}

    def prefill(self, x, context: Context, length: int):
        y, hidden = self._rows(x, context)
        return y, LastHidden(hidden[:, -1])

    def step(self, x, state, context: Context, shared=None):
        decay, value = self._terms(x)
        hidden = decay[:, 0] * state.hidden + value[:, 0]
        return self._output(x, hidden[:, None]), LastHidden(hidden)

    def _terms(self, x):
        decay = jax.nn.sigmoid(self.decay(x).astype(jnp.float32))
        return decay, (1 - decay) * self.value(x)

    def _rows(self, x, context: Context):
        segments = jnp.asarray(context.segments)
        decay, value = self._terms(x)
        first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)[..., None]
        real = (segments > 0)[..., None]
        # Each example starts with a zero state; padding at the end changes nothing.
        decay = jnp.where(real, jnp.where(first, 0.0, decay), 1.0)
        value = jnp.where(real, value, 0.0)

        def after(one, other):
            return one[0] * other[0], other[0] * one[1] + other[1]

        _, hidden = jax.lax.associative_scan(after, (decay, value), axis=1)
        return self._output(x, hidden), hidden

    def _output(self, x, hidden):
        return self.out((hidden * jax.nn.silu(self.gate(x))).astype(x.dtype))


@dataclass(frozen=True, kw_only=True)
class RecurrenceConfig(MixerConfig):
    """Args: inner: width of the hidden state."""

    name: ClassVar[str] = "recurrence"
    capabilities: ClassVar[Capabilities] = Capabilities(packing=True, decoding=True)
    inner: int = 24

    def build(self, options: BuildOptions) -> Recurrence:
        return Recurrence(self.inner, options)


class Reporting(FeedForward):
    """A linear map that reports the mean square of its output, and adds half of it to the objective."""

    def __init__(self, options: BuildOptions) -> None:
        self.map = Linear(
            options.width, options.width, ("embed", None), bias=False, init=options.kernel_init(options.width)
        )

    def __call__(self, x, context: Context):
        y = self.map(x)
        real = (jnp.asarray(context.segments) > 0).astype(jnp.float32)
        square = jnp.sum(jnp.mean(jnp.square(y.astype(jnp.float32)), axis=-1) * real)
        return y, {"square": Term(square, jnp.sum(real), objective=0.5)}


@dataclass(frozen=True, kw_only=True)
class ReportingConfig(FeedForwardConfig):
    """A linear map."""

    def build(self, options: BuildOptions) -> Reporting:
        return Reporting(options)
