"""The training step: one update, as a pure function."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from t2t.losses import LossSums
from t2t.nn.model import Model
from t2t.objectives import Objective
from t2t.objectives.objective import DifferentiableLoss, Teacher
from t2t.optim.balance import split_loads, without_loads
from t2t.optim.ema import Ema
from t2t.optim.norms import layered, squares
from t2t.optim.trainable import merge, split, trainable_specs
from t2t.train.guard import Guard, examine
from t2t.train.state import TrainState
from t2t.types import Batch, Params

Metrics = dict[str, Float[Array, ""]]
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(
    model: Model,
    transform: optax.GradientTransformation,
    objective: Objective,
    *,
    learning_rate: Callable[[Int[Array, ""]], Float[Array, ""]],
    microbatches: int = 1,
    guard: Guard | None = None,
    specs: Any = None,
    ema: Ema | None = None,
    teacher: Model | None = None,
) -> Step:
    """Return the function (state, batch) -> (next state, metrics), to be jitted with shardings.

    The gradient is that of the summed objective divided by the summed weight of the batch, for any number of microbatches. A bad step
    (`guard`) counts as a step but changes neither parameters nor optimizer state. If only some entries of the update are not finite, only
    these entries stay unchanged.

    specs: the model's specs with the frozen parameters marked (`Trainable.apply`); None uses `model.specs`. Gradients, gradient norm, updates
           and optimizer state cover only the trainable parameters. Frozen parameters are returned unchanged.
    ema:   how the running mean of a state that has one is updated. A skipped step and a batch without weight do not change it.
    teacher: the model of the objective's `teacher_run`, whose parameters are those of `state.teacher`. The step returns them unchanged.
    """
    guard = guard or Guard()
    specs = model.specs if specs is None else specs
    trained = trainable_specs(specs)
    stacked = layered(trained)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # Divide by at least 1, so that an empty batch does not give NaN.
        weight = jnp.maximum(objective.weight(batch), 1.0)
        key = jax.random.fold_in(state.key, state.step)

        trainable, frozen = split(state.params, specs)
        loss = objective.loss
        if teacher is not None:
            assert state.teacher is not None, "the state has no parameters of the teacher"
            loss = partial(objective.taught_loss, Teacher(teacher, state.teacher))

        def part_loss(trainable: Params, part: Batch, part_key: PRNGKeyArray) -> tuple[Float[Array, ""], LossSums]:
            total = loss(model, merge(trainable, frozen), part, part_key)
            return total.objective / weight, total

        grads, total = _accumulate(
            partial(_gradients, objective, trained, part_loss), trainable, batch, key, microbatches
        )
        updates, opt_state = transform.update(grads, state.opt_state, trainable)
        updated = optax.apply_updates(trainable, updates)
        value, squared = total.loss / weight, squares(without_loads(grads, trained), stacked)
        # Finite gradients can give non-finite updates: an optimizer that divides by a second moment of 0 computes 0/0. Each such entry keeps its
        # old value independently. If the whole update waited for the check of all entries, the new parameters and moments would be in memory
        # together with the old ones until then.
        finding, health = examine(guard, state.health, value, squared, squares(updates, stacked))

        def sound(new: jax.Array, old: jax.Array) -> jax.Array:
            kept = finding.whole | ~jnp.isfinite(new) if jnp.issubdtype(new.dtype, jnp.inexact) else finding.whole
            return jnp.where(kept, old, new)

        updated, opt_state = jax.tree.map(sound, (updated, opt_state), (trainable, state.opt_state))
        params = merge(updated, frozen)
        mean = state.ema
        if mean is not None and ema is not None:
            unchanged = finding.whole | (objective.weight(batch) <= 0)
            mean = jax.tree.map(
                lambda new, old: jnp.where(unchanged, old, new),
                ema.updated(mean, updated, state.step - state.health.skipped),
                mean,
            )
        metrics = {
            "loss": value,
            **({} if model.config.output == "numbers" else {"accuracy": total.correct / weight}),
            "grad_norm": jnp.sqrt(jnp.sum(squared)),
            # The optimizer counts only the updates that were applied.
            "learning_rate": jnp.asarray(learning_rate(state.step - state.health.skipped), jnp.float32),
            "tokens": _token_count(batch),
            "bad": finding.kind,
            "bad_tensor": finding.at,
            "bad_row": health.row,
            "skipped": health.skipped,
            "loss_mean": state.health.mean,
        }
        for name, (part, own_weight) in objective.metrics(total).items():
            metrics[name] = part / jnp.maximum(own_weight, 1.0)
        after = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            key=state.key,
            health=health,
            ema=mean,
            teacher=state.teacher,
        )
        return after, metrics

    return step


def _gradients(
    objective: Objective, specs: Any, loss: DifferentiableLoss, params: Params, batch: Batch, key: PRNGKeyArray
) -> tuple[Params, LossSums]:
    """Return the gradients of all parameters, with the load in place of the gradient of biases that balance it, and the sums of the loss.

    An objective's own way to compute gradients sees neither these biases nor their load: a load is a number of tokens, which must be in no norm. It is then
    computed separately.

    specs: nested dict of ParamSpec of `params`.
    """
    others, biases = split_loads(params, specs)
    if not biases or type(objective).gradients is Objective.gradients:
        return objective.gradients(loss, params, batch, key)

    def of_others(others: Params, batch: Batch, key: PRNGKeyArray) -> tuple[Float[Array, ""], LossSums]:
        return loss(merge(others, biases), batch, key)

    grads, total = objective.gradients(of_others, others, batch, key)
    loads, _ = jax.grad(lambda biases: loss(merge(others, biases), batch, key), has_aux=True)(biases)
    return merge(grads, loads), total


def _accumulate(
    grad: Callable[..., tuple[Params, LossSums]], params: Params, batch: Batch, key: PRNGKeyArray, microbatches: int
) -> tuple[Params, LossSums]:
    """Sum gradients and losses over the microbatches, in sequence."""
    if microbatches == 1:
        return grad(params, batch, key)

    # Row r goes to microbatch r % M. Every device then already holds its rows of each microbatch.
    parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, *x.shape[1:]).swapaxes(0, 1), batch)

    def body(
        carry: tuple[Params, LossSums], part: tuple[Batch, Int[Array, ""]]
    ) -> tuple[tuple[Params, LossSums], None]:
        rows, index = part
        return jax.tree.map(jnp.add, carry, grad(params, rows, jax.random.fold_in(key, index))), None

    shapes = jax.eval_shape(grad, params, jax.tree.map(lambda x: x[0], parts), key)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (grads, total), _ = jax.lax.scan(body, zeros, (parts, jnp.arange(microbatches)))
    return grads, total


def _token_count(batch: Batch) -> Float[Array, ""]:
    """Return the number of input and target tokens without padding."""
    streams = [tokens for tokens in (batch.encoder, batch.decoder) if tokens is not None]
    return jnp.asarray(sum(jnp.sum(tokens.segments > 0) for tokens in streams), jnp.float32)
