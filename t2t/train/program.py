"""What a run compiles: its model, optimizer and step laid over a mesh. Holds no data and no arrays, and runs without the devices being there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from t2t import types
from t2t.data.converters import FeatureConverter
from t2t.nn.model import Model
from t2t.optim.paths import flatten_specs
from t2t.optim.trainable import split, trainable_specs
from t2t.sharding import DEFAULT_RULES, activate
from t2t.train.experiment import Experiment
from t2t.train.state import TrainState, create_state, state_shardings
from t2t.train.state import abstract_state as _abstract_state
from t2t.train.step import Metrics, Step, make_step
from t2t.types import Batch, Params

IN_PLACE_ON_CPU = {"xla_cpu_copy_insertion_use_region_analysis": True}
"""Without it XLA's CPU compiler copies the optimizer's whole state before each update; compilers for other platforms have it by default."""


@dataclass(frozen=True)
class Program:
    """An experiment's pure functions, and how what they map is divided over `mesh`.

    specs:     the parameters', with what is frozen marked.
    mesh:      of real devices, of a topology's that are not there (to compile ahead of time), or of none (to trace alone).
    shardings: of the state, a TrainState of NamedShardings.
    """

    experiment: Experiment
    mesh: Mesh | AbstractMesh
    model: Model
    specs: dict[str, Any]
    transform: optax.GradientTransformation
    shardings: TrainState

    @classmethod
    def of(cls, experiment: Experiment, mesh: Mesh | AbstractMesh) -> Program:
        """Return the program. Raises UserError, naming the parameter or pattern, where one does not divide over the mesh or names none."""
        model = experiment.model.build()
        specs = experiment.trainable.apply(model.specs)
        transform = _named(experiment.optimizer.build(trainable_specs(specs)))
        return cls(experiment, mesh, model, specs, transform, state_shardings(model, transform, mesh, specs=specs))

    @property
    def learning_rate(self) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
        """The schedule, step -> learning rate."""
        return self.experiment.optimizer.schedule.build()

    def abstract_state(self) -> TrainState:
        """Return the state as ShapeDtypeStructs that carry their shardings."""
        return _abstract_state(self.model, self.transform, self.shardings, self.specs)

    def trainable(self, params: Params) -> Params:
        """Return the trainable part of a nested dict that has a leaf for each parameter."""
        return split(params, self.specs)[0]

    @property
    def frozen(self) -> frozenset[str]:
        """Paths of the frozen parameters."""
        return frozenset(path for path, spec in flatten_specs(self.specs).items() if not spec.trainable)

    def counts(self) -> tuple[int, int]:
        """Return how many numbers the trainable parameters have, and how many all of them have."""
        sizes = [(math.prod(spec.shape), spec.trainable) for spec in flatten_specs(self.specs).values()]
        return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)

    def batch_sharding(self) -> NamedSharding:
        """Return how the arrays of a batch, [B L], are divided."""
        return batch_sharding(self.mesh)

    def abstract_batch(self, *, has_inputs: bool = True, has_types: bool = False) -> Batch:
        """Return a batch as ShapeDtypeStructs that carry their shardings. has_inputs, has_types: see `FeatureConverter`, as the task has them."""
        rows = self.experiment.rows(has_inputs=has_inputs, has_types=has_types)
        batch, sharding, extra = rows.batch([[]]), self.batch_sharding(), self.extra_shardings(rows)

        def abstract(row: types.Array, sharding: NamedSharding = sharding) -> jax.ShapeDtypeStruct:
            shape = (self.experiment.data.batch_size, *row.shape[1:])
            return jax.ShapeDtypeStruct(shape, row.dtype, sharding=sharding)

        tokens = jax.tree.map(abstract, replace(batch, extra={}))
        return replace(tokens, extra={name: abstract(row, extra[name]) for name, row in batch.extra.items()})

    def extra_shardings(self, rows: FeatureConverter) -> dict[str, NamedSharding]:
        """Return how the arrays of `Batch.extra` are divided, by name: as their logical axes say."""
        return {
            name: NamedSharding(self.mesh, DEFAULT_RULES.partition(axes, self.mesh))
            for name, axes in rows.extra_axes.items()
        }

    def create(self, seed: int) -> TrainState:
        """Return the state at step 0, each device making its own part."""
        create = jax.jit(
            lambda seed: create_state(self.model, self.transform, seed, self.specs), out_shardings=self.shardings
        )
        return create(seed)

    def compiled(self, batch: Batch) -> jax.stages.Compiled:
        """Return `step` compiled for batches like `batch`, of ShapeDtypeStructs. It takes the state's memory for the next, too."""
        return cast(jax.stages.Wrapped, self.step()).lower(self.abstract_state(), batch).compile()

    def step(self) -> Step:
        """Return the jitted update, (state, batch) -> (state, metrics); it takes the state's memory for the next."""
        step = make_step(
            self.model,
            self.transform,
            self.experiment.objective,
            learning_rate=self.learning_rate,
            microbatches=self.experiment.microbatches,
            guard=self.experiment.guard,
            specs=self.specs,
        )

        def sharded(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            with activate(self.mesh):
                return step(state, batch)

        on_cpu = isinstance(self.mesh, Mesh) and self.mesh.devices.flat[0].platform == "cpu"
        return jax.jit(
            sharded,
            out_shardings=(self.shardings, None),
            donate_argnums=0,
            compiler_options=IN_PLACE_ON_CPU if on_cpu else None,
        )


def _named(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let profiles tell the optimizer's operations from the model's."""
    return optax.GradientTransformation(transform.init, jax.named_scope("optimizer")(transform.update))


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return how the arrays of a batch, [B L], are divided: by rows, and along the rows where the mesh has a context axis."""
    return NamedSharding(mesh, DEFAULT_RULES.partition(("batch", "length"), mesh))
