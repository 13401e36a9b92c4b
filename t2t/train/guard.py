"""Detect and handle bad steps: a loss, gradient or update that is not finite, or a spike of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from t2t.errors import Failure
from t2t.limits import Configuration, Count, Range
from t2t.optim.norms import layered, squares
from t2t.optim.paths import flatten_specs
from t2t.optim.per_layer import depth
from t2t.optim.trainable import trainable_specs
from t2t.types import Params


@dataclass(frozen=True, kw_only=True)
class Guard(Configuration):
    """How to handle bad steps. The update of a bad step is not applied. If only some entries of an update are not finite, only these are not
    applied. Then the run continues ("skip"), returns to its newest checkpoint and skips the data since then ("rewind"), or ends ("stop").

    Args:
        nonfinite: what to do if a loss, parameter, gradient or update is NaN or infinite.
        spike: what to do if the loss is above `spike_factor` times its running mean. "ignore" applies the update.
        spike_factor: a loss above this factor times the running mean is a spike.
        window: number of good steps of the running mean (an exponential mean). No step counts as a spike before this many good steps.
        limit: the run ends after this many bad steps in a row, or after this many rewinds.
        step_seconds: a step that takes longer ends the process and prints the stacks of all threads on standard error. 0 is unlimited. The first
            step includes compilation.
    """

    nonfinite: Literal["skip", "rewind", "stop"] = "skip"
    spike: Literal["ignore", "skip", "rewind", "stop"] = "ignore"
    spike_factor: Annotated[float, Range(1.01, 1e6)] = 3.0
    window: Count = 100
    limit: Count = 20
    step_seconds: Annotated[float, Range(1.0, 1e7, also=(0.0,))] = 1800.0


class Diverged(Failure):
    """Training ended because of bad steps. The newest checkpoint is from before them."""


@struct.dataclass
class Health:
    """Statistics of past steps that detect bad ones.

    mean:    running mean of the loss over good steps.
    good:    number of good steps.
    skipped: number of bad steps.
    row:     number of bad steps in a row up to now.
    """

    mean: Float[Array, ""]
    good: Int[Array, ""]
    skipped: Int[Array, ""]
    row: Int[Array, ""]


@struct.dataclass
class Finding:
    """The result of the check of a step.

    bad:   whether the step is bad.
    whole: whether the whole update is skipped, because of the loss or the gradients. If not, only its non-finite entries are skipped.
    kind:  0 good, 1 not finite, 2 spike.
    at:    first tensor that is not finite: 0 is the loss, then the gradients in the order of `tensors`, then the updates; -1 if none.
    """

    bad: Bool[Array, ""]
    whole: Bool[Array, ""]
    kind: Int[Array, ""]
    at: Int[Array, ""]


def healthy() -> Health:
    """Return the health at step 0."""
    zero = jnp.zeros((), jnp.int32)
    return Health(mean=jnp.zeros((), jnp.float32), good=zero, skipped=zero, row=zero)


def examine(
    guard: Guard, health: Health, loss: Float[Array, ""], grads: Float[Array, "N"], updates: Float[Array, "N"]
) -> tuple[Finding, Health]:
    """Return the finding for a step, and the health after it. grads, updates: their `squares`."""
    finite_grads, finite_updates = jnp.isfinite(jnp.concatenate([loss[None], grads])), jnp.isfinite(updates)
    unsound = ~jnp.all(finite_grads)  # without the updates, so that it does not wait for them
    nonfinite = unsound | ~jnp.all(finite_updates)
    spike = jnp.zeros((), bool)
    if guard.spike != "ignore":
        spike = ~unsound & (health.good >= guard.window) & (loss > guard.spike_factor * health.mean)
    bad = nonfinite | spike
    kind = jnp.where(nonfinite, 1, jnp.where(spike, 2, 0))
    at = jnp.where(nonfinite, jnp.argmin(jnp.concatenate([finite_grads, finite_updates])), -1)
    share = 1.0 / jnp.minimum(health.good + 1, guard.window).astype(jnp.float32)
    one = bad.astype(jnp.int32)
    after = Health(
        mean=jnp.where(bad, health.mean, health.mean + share * (loss - health.mean)),
        good=health.good + 1 - one,
        skipped=health.skipped + one,
        row=jnp.where(bad, health.row + 1, 0),
    )
    return Finding(bad=bad, whole=unsound | spike, kind=kind, at=at.astype(jnp.int32)), after


def tensors(specs: Params) -> list[str]:
    """Return the names of the entries of `squares`."""
    names = []
    for path, spec in flatten_specs(specs).items():
        layers = depth(spec)
        names += [path] if layers is None else [f"{path}, layer {layer}" for layer in range(layers)]
    return names


@dataclass(frozen=True, kw_only=True)
class BadStep:
    """A step whose update was skipped, as a whole or in part. what: the reason. left_out: what was skipped, with its verb."""

    step: int
    kind: Literal["nonfinite", "spike"]
    what: str
    left_out: str = "its update was"


class Judge:
    """Decides from the metrics of steps how the run continues. The same metrics give the same decision, so all processes agree."""

    def __init__(self, guard: Guard, specs: Params) -> None:
        self._guard, self._names, self._trainable = guard, tensors(specs), tensors(trainable_specs(specs))
        self._finite = jax.jit(lambda params: jnp.isfinite(squares(params, layered(specs))))
        self.rewinds = 0

    def bad_parameter(self, params: Params) -> str | None:
        """Return the name of the first parameter that is not finite, or None. Waits for the devices. Call this on all processes."""
        finite = np.asarray(self._finite(params))
        return None if finite.all() else self._names[int(np.argmin(finite))]

    def check_parameters(self, step: int, params: Params) -> None:
        """Raise Diverged if a parameter is not finite, so that only good parameters are saved."""
        culprit = self.bad_parameter(params)
        if culprit is not None:
            raise Diverged(f"step {step}: parameter {culprit} is not finite; the step was not saved")

    def bad_steps(self, steps: Sequence[int], metrics: Sequence[Mapping[str, Any]]) -> list[BadStep]:
        """Return the bad steps. metrics: the metrics of each step, on the host."""
        found = []
        for step, values in zip(steps, metrics, strict=True):
            kind, loss = int(values["bad"]), float(values["loss"])
            if kind == 1:
                at = int(values["bad_tensor"])
                of, which = divmod(at - 1, len(self._trainable))
                what = "the loss" if at == 0 else f"the {('gradient', 'update')[of]} of {self._trainable[which]}"
                left_out = "its update was" if at == 0 or of == 0 else "its non-finite entries were"
                found.append(BadStep(step=step, kind="nonfinite", what=f"{what} is not finite", left_out=left_out))
            elif kind == 2:
                mean = float(values["loss_mean"])
                found.append(BadStep(step=step, kind="spike", what=f"loss {loss:.4g}, its running mean {mean:.4g}"))
        return found

    def action(self, bad: Sequence[BadStep], row: int) -> Literal["continue", "rewind"]:
        """Return how to continue after the bad steps since the last call. row: number of bad steps in a row up to now.

        Raises Diverged if the run must end.
        """
        if not bad:
            return "continue"
        wanted = {getattr(self._guard, step.kind) for step in bad}
        first = bad[0]
        if "stop" in wanted:
            raise Diverged(f"step {first.step}: {first.what} (--guard.{first.kind} stop)")
        if "rewind" in wanted:
            self.rewinds += 1
            if self.rewinds > self._guard.limit:
                raise Diverged(
                    f"step {first.step}: {first.what}; rewound {self._guard.limit} times already (--guard.limit)"
                )
            return "rewind"
        if row >= self._guard.limit:
            raise Diverged(
                f"step {bad[-1].step}: {bad[-1].what}; {row} bad steps in a row (--guard.limit {self._guard.limit})"
            )
        return "continue"


def mean_of_good(values: Sequence[float], bad: Sequence[bool]) -> float:
    """Return the mean over the good steps; NaN if there are none."""
    good = [value for value, is_bad in zip(values, bad, strict=True) if not is_bad]
    return sum(good) / len(good) if good else math.nan
