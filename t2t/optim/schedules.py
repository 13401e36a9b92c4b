"""Learning rates as functions of the step."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Configuration, Count, CountOrZero, Peak, Share

LearningRate = Callable[[ArrayLike], Float[Array, ""]]


@dataclass(frozen=True, kw_only=True)
class Schedule(Configuration, abc.ABC):
    """How the learning rate goes with the step.

    A step is the number of updates made before it, so the first is step 0.

    Args:
        peak: the highest learning rate.
        warmup: steps over which the learning rate first rises to `peak`, or is held there: each schedule says which.
    """

    peak: Peak
    warmup: CountOrZero = 0

    @abc.abstractmethod
    def build(self) -> LearningRate:
        """Return the function step -> learning rate (float32 scalar), which may be traced by `jax.jit`."""

    def _rise(self, step: Float[Array, ""]) -> Float[Array, ""]:
        """Return step / warmup until it reaches 1."""
        return jnp.minimum(1.0, step / self.warmup) if self.warmup else jnp.ones_like(step)


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """`peak` at every step, after a linear rise over `warmup` steps. T5 fine-tunes at a constant 1e-3."""

    peak: Peak = 1e-3

    def build(self) -> LearningRate:
        """Return the function step -> learning rate."""
        return lambda step: self.peak * self._rise(_float(step))


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Schedule):
    """`peak` * sqrt(warmup / max(step, warmup)).

    Held at `peak` for `warmup` steps, then falling with the square root of the step; with the defaults that is
    1 / sqrt(max(step, 10000)), with which T5 was pretrained (Raffel et al. 2020, section 3.1.2).

    Args:
        peak: the highest learning rate, held during the warm-up.
        warmup: steps after which it begins to fall.
        rise: rise linearly from 0 to `peak` during the warm-up instead, as in Vaswani et al. 2017.
    """

    peak: Peak = 0.01
    warmup: Count = 10_000
    rise: bool = False

    def build(self) -> LearningRate:
        """Return the function step -> learning rate."""

        def rate(step: ArrayLike) -> Float[Array, ""]:
            now = _float(step)
            held = self.peak * jnp.sqrt(self.warmup / jnp.maximum(now, self.warmup))
            return held * self._rise(now) if self.rise else held

        return rate


@dataclass(frozen=True, kw_only=True)
class _Decay(Schedule):
    """A linear rise over `warmup` steps, a fall until step `steps`, and constant from there.

    Args:
        steps: the step at which the fall ends; usually that of the whole training.
        final: learning rate at the end, as a fraction of `peak`.
    """

    steps: Count
    final: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.steps <= self.warmup:
            raise UserError(f"{name}.steps: {self.steps} leaves no step after the warm-up of {self.warmup}")

    def build(self) -> LearningRate:
        """Return the function step -> learning rate."""

        def rate(step: ArrayLike) -> Float[Array, ""]:
            now = _float(step)
            done = jnp.clip((now - self.warmup) / (self.steps - self.warmup), 0.0, 1.0)
            return self.peak * self._rise(now) * (self.final + (1 - self.final) * self._remaining(done))

        return rate

    @abc.abstractmethod
    def _remaining(self, done: Float[Array, ""]) -> Float[Array, ""]:
        """Return what of the fall remains, from 1 to 0, where the share `done` of its steps is done."""


@dataclass(frozen=True, kw_only=True)
class Linear(_Decay):
    """A straight line from `peak` to `final`. BERT: peak 1e-4, warmup 10,000, steps 1,000,000 (Devlin et al. 2019)."""

    peak: Peak = 1e-4

    def _remaining(self, done: Float[Array, ""]) -> Float[Array, ""]:
        return 1 - done


@dataclass(frozen=True, kw_only=True)
class Cosine(_Decay):
    """Half a cosine from `peak` to `final` (Loshchilov & Hutter 2017). GPT-3 ends at a tenth of its peak (Brown et al. 2020)."""

    peak: Peak = 3e-4
    final: Share = 0.1

    def _remaining(self, done: Float[Array, ""]) -> Float[Array, ""]:
        return 0.5 * (1 + jnp.cos(jnp.pi * done))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(_Decay):
    """`peak` until `decay_steps` before `steps`, then a straight line to `final` (Hu et al. 2024; SmolLM2, Allal et al. 2025).

    Args:
        decay_steps: steps of the fall, the last before `steps`.
    """

    decay_steps: Count

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.steps - self.warmup
        if self.decay_steps > most:
            raise UserError(
                f"WarmupStableDecay.decay_steps: {self.decay_steps} is more than the {most} steps after the warm-up. Nearest: {most}."
            )

    def _remaining(self, done: Float[Array, ""]) -> Float[Array, ""]:
        return jnp.minimum(1.0, (1 - done) * ((self.steps - self.warmup) / self.decay_steps))


def _float(step: ArrayLike) -> Float[Array, ""]:
    return jnp.asarray(step, jnp.float32)
