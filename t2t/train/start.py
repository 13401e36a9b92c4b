"""The state a run begins with: random parameters, or parts of another run's."""

from __future__ import annotations

from collections.abc import Callable

import jax
import optax

from t2t.checkpoint import initialise
from t2t.nn.model import Model
from t2t.train.experiment import Experiment
from t2t.train.run import Run
from t2t.train.state import TrainState, create_state


def initial_state(
    experiment: Experiment,
    model: Model,
    transform: optax.GradientTransformation,
    shardings: TrainState,
    say: Callable[[str], None],
) -> TrainState:
    """Return the state at step 0, divided over the mesh as it is created.

    Raises UserError where `start_from` names no run, or parameters that do not fit this model.
    """
    create = jax.jit(lambda seed: create_state(model, transform, seed), out_shardings=shardings)
    state = create(experiment.seed)
    begin = experiment.start_from
    if begin.run is None:
        return state
    source = Run.load(begin.run, begin.step)
    begun = initialise(state.params, source.params(), include=begin.include, exclude=begin.exclude)
    say(f"starting from step {source.step} of {begin.run}: {begun.report()}")
    params = jax.tree.map(jax.device_put, begun.params, shardings.params)
    # The optimizer's state may depend on the parameters it begins with.
    restart = jax.jit(transform.init, out_shardings=shardings.opt_state)
    return TrainState(step=state.step, params=params, opt_state=restart(params), key=state.key)
