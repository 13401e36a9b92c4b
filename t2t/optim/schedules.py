"""Learning rate schedules: functions of the step."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from t2t.errors import UserError
from t2t.limits import Configuration, Count, CountOrZero, Peak, Share

LearningRate = Callable[[ArrayLike], Float[Array, ""]]


@dataclass(frozen=True, kw_only=True)
class Schedule(Configuration, abc.ABC):
    """Base class of learning rate schedules.

    The step is the number of previous updates, so the first step is 0.

    Args:
        peak: the highest learning rate.
        warmup: number of warm-up steps. The learning rate rises to `peak` or stays at `peak`, depending on the schedule.
    """

    peak: Peak
    warmup: CountOrZero = 0

    @abc.abstractmethod
    def build(self) -> LearningRate:
        """Return the function step -> learning rate (float32 scalar), which `jax.jit` can trace."""

    def _rise(self, step: Float[Array, ""]) -> Float[Array, ""]:
        """Return step / warmup until it reaches 1."""
        return jnp.minimum(1.0, step / self.warmup) if self.warmup else jnp.ones_like(step)


@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """Constant `peak` after a linear rise over `warmup` steps. T5 is fine-tuned with a constant 1e-3."""

    peak: Peak = 1e-3

    def build(self) -> LearningRate:
        """Return the function step -> learning rate."""
        return lambda step: self.peak * self._rise(_float(step))


@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot(Schedule):
    """`peak` * sqrt(warmup / max(step, warmup)).

    The learning rate stays at `peak` for `warmup` steps, then it falls with the square root of the step. The defaults give
    1 / sqrt(max(step, 10000)), the schedule of T5's pretraining (Raffel et al. 2020, section 3.1.2).

    Args:
        peak: the highest learning rate, used during the warm-up.
        warmup: number of steps before the learning rate starts to fall.
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
    """A linear rise over `warmup` steps, then a decay until step `steps`, then constant.

    Args:
        steps: the step at which the decay ends, usually the last step of the training.
        final: learning rate after the decay, as a fraction of `peak`.
    """

    steps: Count
    final: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if self.steps <= self.warmup:
            raise UserError(f"{name}.steps: {self.steps} is not more than the {self.warmup} warm-up steps")

    def build(self) -> LearningRate:
        """Return the function step -> learning rate."""

        def rate(step: ArrayLike) -> Float[Array, ""]:
            now = _float(step)
            return self.peak * self._rise(now) * (self.final + (1 - self.final) * self._remaining(now))

        return rate

    def _done(self, now: Float[Array, ""]) -> Float[Array, ""]:
        """Return the fraction of the steps after the warm-up that is done."""
        return jnp.clip((now - self.warmup) / (self.steps - self.warmup), 0.0, 1.0)

    @abc.abstractmethod
    def _remaining(self, now: Float[Array, ""]) -> Float[Array, ""]:
        """Return the remaining fraction of the decay at step `now`, from 1 to 0."""


@dataclass(frozen=True, kw_only=True)
class Linear(_Decay):
    """Linear decay from `peak` to `final`. BERT: peak 1e-4, warmup 10,000, steps 1,000,000 (Devlin et al. 2019)."""

    peak: Peak = 1e-4

    def _remaining(self, now: Float[Array, ""]) -> Float[Array, ""]:
        return 1 - self._done(now)


@dataclass(frozen=True, kw_only=True)
class Cosine(_Decay):
    """Cosine decay from `peak` to `final` (Loshchilov & Hutter 2017). GPT-3 decays to a tenth of its peak (Brown et al. 2020)."""

    peak: Peak = 3e-4
    final: Share = 0.1

    def _remaining(self, now: Float[Array, ""]) -> Float[Array, ""]:
        return 0.5 * (1 + jnp.cos(jnp.pi * self._done(now)))


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(_Decay):
    """Constant `peak`, then a decay to `final` over the last `decay_steps` (Hu et al. 2024; SmolLM2, Allal et al. 2025).

    Args:
        decay_steps: number of steps of the decay, which ends at `steps`.
        shape: how the rate falls from `peak` to `final` while a fraction t of the decay is done: "linear" with 1 - t, "sqrt" with 1 - sqrt(t), which
            falls faster at first (Hägele et al. 2024, https://arxiv.org/abs/2405.18392, section 3.2; ModernBERT, Warner et al. 2024).
    """

    decay_steps: Count
    shape: Literal["linear", "sqrt"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        most = self.steps - self.warmup
        if self.decay_steps > most:
            raise UserError(
                f"WarmupStableDecay.decay_steps: {self.decay_steps} is more than the {most} steps after the warm-up. Nearest: {most}."
            )

    def _remaining(self, now: Float[Array, ""]) -> Float[Array, ""]:
        if self.shape == "linear":
            return jnp.minimum(1.0, (1 - self._done(now)) * ((self.steps - self.warmup) / self.decay_steps))
        # From the step: near 0, the root would enlarge the rounding errors of a fraction of all steps.
        return 1 - jnp.sqrt(jnp.clip((now - (self.steps - self.decay_steps)) / self.decay_steps, 0.0, 1.0))


def _float(step: ArrayLike) -> Float[Array, ""]:
    return jnp.asarray(step, jnp.float32)
