"""The training state on the devices, and its shardings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray

from t2t.nn.model import Model, ParamSpec
from t2t.optim import state_axes
from t2t.optim.paths import path_name
from t2t.optim.trainable import merge, split, trainable_specs
from t2t.sharding import DEFAULT_RULES, Rules
from t2t.train.guard import Health, healthy
from t2t.types import Params


@struct.dataclass
class TrainState:
    """The training state. A step maps it to the next one.

    step:   number of batches trained on.
    key:    random key of the run. Step i uses fold_in(key, i), so the key never changes.
    health: statistics that detect bad steps.
    ema:    running mean of the trainable parameters, None if there is none (`t2t.optim.Ema`).
    teacher: parameters of the model that the objective reads, None if there is none (`Objective.teacher_run`). Checkpoints do not have them.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Any
    key: PRNGKeyArray
    health: Health
    ema: Params | None = None
    teacher: Params | None = None

    @property
    def evaluated(self) -> Params:
        """The parameters to evaluate: the running means, if there are any, and the frozen parameters."""
        return self.params if self.ema is None else merge(self.params, self.ema)

    @property
    def stored(self) -> TrainState:
        """The part of the state that a checkpoint has: all but the teacher's parameters."""
        return replace(self, teacher=None)


def create_state(
    model: Model,
    transform: optax.GradientTransformation,
    seed: jax.Array | int,
    specs: Any = None,
    *,
    ema: bool = False,
) -> TrainState:
    """Return the state at step 0. Under jit with out_shardings it is created sharded, never as a whole.

    specs: the model's specs with the frozen parameters marked (`Trainable.apply`); None uses `model.specs`. The optimizer state covers only
           the trainable parameters.
    ema:   keep a running mean, which begins with the initial parameters.
    """
    specs = model.specs if specs is None else specs
    params = first_params(model, seed, specs)
    return state_of(params, split(params, specs)[0], transform, seed, ema=ema)


def first_params(model: Model, seed: jax.Array | int, specs: Any) -> Params:
    """Return random parameters in the dtypes of `specs`. Each depends only on the seed and its path."""
    drawn: Params = jax.tree.map(lambda leaf, spec: leaf.astype(spec.dtype), model.init(_keys(seed)[0]), specs)
    return drawn


def state_of(
    params: Params, trainable: Params, transform: optax.GradientTransformation, seed: jax.Array | int, *, ema: bool
) -> TrainState:
    """Return the state at step 0 with these parameters. trainable: those of them that are trained."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=transform.init(trainable),
        key=_keys(seed)[1],
        health=healthy(),
        ema=jax.tree.map(jnp.copy, trainable) if ema else None,
    )


def _keys(seed: jax.Array | int) -> PRNGKeyArray:
    """Return the key of the initial parameters and that of the run."""
    return jax.random.split(jax.random.key(seed))


def param_shardings(model: Model, mesh: Mesh | AbstractMesh, rules: Rules = DEFAULT_RULES) -> Any:
    """Return a NamedSharding for each parameter. Raises UserError if a parameter is not divisible over the mesh."""

    def one(path: Any, spec: ParamSpec) -> NamedSharding:
        return rules.sharding(spec.axes, spec.shape, mesh, name=f"parameter {path_name(path)}")

    return jax.tree_util.tree_map_with_path(one, model.specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec))


def state_shardings(
    model: Model,
    transform: optax.GradientTransformation,
    mesh: Mesh | AbstractMesh,
    rules: Rules = DEFAULT_RULES,
    *,
    specs: Any = None,
    ema: bool = False,
) -> TrainState:
    """Return a TrainState of NamedShardings. Optimizer state and running means are sharded like their parameters; scalars are replicated.

    specs, ema: see `create_state`.
    """
    specs = model.specs if specs is None else specs
    whole = NamedSharding(mesh, PartitionSpec())
    abstract = jax.eval_shape(lambda: create_state(model, transform, 0, specs))
    axes = state_axes(transform, trainable_specs(specs))

    def one(path: Any, leaf: jax.ShapeDtypeStruct, leaf_axes: tuple[str | None, ...]) -> NamedSharding:
        return rules.sharding(leaf_axes, leaf.shape, mesh, name=f"optimizer state {path_name(path)}")

    params = param_shardings(model, mesh, rules)
    return TrainState(
        step=whole,  # type: ignore[arg-type]
        params=params,
        opt_state=jax.tree_util.tree_map_with_path(one, abstract.opt_state, axes),
        key=whole,  # type: ignore[arg-type]
        health=jax.tree.map(lambda _: whole, abstract.health),
        ema=split(params, specs)[0] if ema else None,
    )


def abstract_state(
    model: Model, transform: optax.GradientTransformation, shardings: TrainState, specs: Any = None
) -> TrainState:
    """Return the state as ShapeDtypeStructs with shardings. specs: see `create_state`."""
    shapes = jax.eval_shape(lambda: create_state(model, transform, 0, specs, ema=shardings.ema is not None))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )
