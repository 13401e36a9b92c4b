"""The program of a run: its model, optimizer and step on a mesh. It holds no data and no arrays, and does not need the devices to exist."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from t2t import types
from t2t.data.converters import FeatureConverter
from t2t.nn.model import Model
from t2t.nn.weights import kernel_of
from t2t.objectives.objective import Teacher
from t2t.optim.paths import flatten_specs
from t2t.optim.state_axes import abstract_params
from t2t.optim.trainable import split, trainable_specs
from t2t.sharding import DEFAULT_RULES, activate
from t2t.train.experiment import Experiment
from t2t.train.host_memory import in_host_memory, on_devices
from t2t.train.state import TrainState, create_state, first_params, param_shardings, state_of, state_shardings
from t2t.train.state import abstract_state as _abstract_state
from t2t.train.step import Metrics, Step, make_step
from t2t.train.teacher import teacher_model
from t2t.types import Batch, Params

IN_PLACE_ON_CPU = {"xla_cpu_copy_insertion_use_region_analysis": True}
"""Without this option, XLA's CPU compiler copies the whole optimizer state before each update. It is the default on other platforms."""


@dataclass(frozen=True)
class Program:
    """The pure functions of an experiment, and the shardings of their state on `mesh`.

    specs:     the specs of the parameters, with the frozen ones marked.
    mesh:      real devices, the devices of a topology description (to compile ahead of time), or an abstract mesh (to trace only).
    shardings: the shardings of the state, a TrainState of NamedShardings.
    teacher:   the model that the objective reads, None if there is none.
    """

    experiment: Experiment
    mesh: Mesh | AbstractMesh
    model: Model
    specs: dict[str, Any]
    transform: optax.GradientTransformation
    shardings: TrainState
    teacher: Model | None = None

    @classmethod
    def of(cls, experiment: Experiment, mesh: Mesh | AbstractMesh) -> Program:
        """Return the program.

        Raises UserError if a parameter is not divisible over the mesh, if a pattern matches no parameter, or if the objective's teacher is not a run or does
        not fit the model.
        """
        built, teacher = experiment.built(), teacher_model(experiment)
        model = experiment.objective.extended(built, teacher)
        specs = model.specs | experiment.trainable.apply(built.specs)  # what the objective adds is trained
        transform = _named(experiment.optimizer.build(trainable_specs(specs)))
        ema = experiment.ema.decay is not None
        shardings = state_shardings(model, transform, mesh, specs=specs, ema=ema)
        if experiment.optimizer.state_memory == "host":
            shapes = _abstract_state(model, transform, shardings, specs).opt_state
            shardings = replace(shardings, opt_state=in_host_memory(shardings.opt_state, shapes))
        if teacher is not None:
            shardings = replace(shardings, teacher=param_shardings(teacher, mesh))
        return cls(experiment, mesh, model, specs, transform, shardings, teacher)

    @property
    def learning_rate(self) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
        """The learning rate schedule, step -> learning rate."""
        return self.experiment.optimizer.schedule.build()

    def abstract_state(self) -> TrainState:
        """Return the state as ShapeDtypeStructs with shardings."""
        state = _abstract_state(self.model, self.transform, self.shardings.stored, self.specs)
        return state if self.teacher is None else replace(state, teacher=self.abstract_teacher())

    def teacher_of(self, state: TrainState) -> Teacher | None:
        """Return the model that the objective reads, with its parameters in a state; None if there is none."""
        if self.teacher is None or state.teacher is None:
            return None
        return Teacher(self.teacher, state.teacher)

    def abstract_teacher(self) -> Params:
        """Return the teacher's parameters as ShapeDtypeStructs with shardings."""
        named = self.experiment.objective.teacher_run
        assert self.teacher is not None, "the objective has a teacher"
        assert named is not None, "the objective has a teacher"
        kept: Params = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(named.dtype), sharding=sharding),
            abstract_params(self.teacher.specs),
            self.shardings.teacher,
        )
        return kept

    def trainable(self, params: Params) -> Params:
        """Return the trainable part of a tree with one leaf for each parameter."""
        return split(params, self.specs)[0]

    @property
    def frozen(self) -> frozenset[str]:
        """Paths of the frozen parameters."""
        return frozenset(path for path, spec in flatten_specs(self.specs).items() if not spec.trainable)

    def counts(self) -> tuple[int, int]:
        """Return the number of trainable parameters, and of all parameters."""
        sizes = [(spec.size, spec.trainable) for spec in flatten_specs(self.specs).values()]
        return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)

    def batch_sharding(self) -> NamedSharding:
        """Return the sharding of the arrays of a batch, [B L]."""
        return batch_sharding(self.mesh)

    def abstract_batch(
        self, *, has_types: bool = False, rows: FeatureConverter | None = None, size: int | None = None
    ) -> Batch:
        """Return a batch as ShapeDtypeStructs with shardings.

        rows: the task's converter; None for the one that the experiment has without its task, and then has_types: see `FeatureConverter`.
        size: rows of the batch; None for `data.batch_size`, to which a batch may grow.
        """
        rows = self.experiment.rows(has_types=has_types) if rows is None else rows
        batch, sharding, extra = rows.batch([[]]), self.batch_sharding(), self.extra_shardings(rows)

        def abstract(row: types.Array, sharding: NamedSharding = sharding) -> jax.ShapeDtypeStruct:
            shape = (size or self.experiment.data.batch_size, *row.shape[1:])
            return jax.ShapeDtypeStruct(shape, row.dtype, sharding=sharding)

        tokens = jax.tree.map(abstract, replace(batch, extra={}))
        return replace(tokens, extra={name: abstract(row, extra[name]) for name, row in batch.extra.items()})

    def extra_shardings(self, rows: FeatureConverter) -> dict[str, NamedSharding]:
        """Return the shardings of the arrays of `Batch.extra`, by name. They follow from the logical axes."""
        return {
            name: NamedSharding(self.mesh, DEFAULT_RULES.partition(axes, self.mesh))
            for name, axes in rows.extra_axes.items()
        }

    def create(self, seed: int, *, teacher: bool = True) -> TrainState:
        """Return the state at step 0. Each device creates its own part. Kernels that are quantized are in memory as floats one after the other.

        teacher: with random parameters of the teacher, if the objective has one, to measure steps. A training reads them (`t2t.train.teacher`).
        """
        ema = self.shardings.ema is not None
        create = jax.jit(
            lambda seed: create_state(self.model, self.transform, seed, self.specs, ema=ema),
            out_shardings=self.shardings.stored,
        )
        state = self._quantized(seed) if self.model.quantized_kernels else create(seed)
        if not teacher or self.teacher is None:
            return state
        dtypes = jax.tree.map(lambda leaf: leaf.dtype, self.abstract_teacher())
        init = self.teacher.init
        made = jax.jit(
            lambda key: jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), init(key), dtypes),
            out_shardings=self.shardings.teacher,
        )
        return replace(state, teacher=made(jax.random.key(seed)))

    def _quantized(self, seed: int) -> TrainState:
        paths = flatten_specs(self.specs)
        rest = [path for path in paths if kernel_of(path) not in self.model.quantized_kernels]
        params = self.draw(seed, rest)
        for kernel in self.model.quantized_kernels:
            params |= self.draw(seed, [path for path in paths if kernel_of(path) == kernel])
        return self.begin(seed, unflatten_dict(params, sep="/"))

    def draw(self, seed: int, paths: Collection[str]) -> dict[str, jax.Array]:
        """Return the random parameters with these paths, path -> array: those that `create` makes. No others are in memory."""
        if not paths:
            return {}
        shardings = flatten_dict(self.shardings.params, sep="/")

        def drawn(seed: Int[Array, ""]) -> dict[str, jax.Array]:
            every = flatten_dict(first_params(self.model, seed, self.specs), sep="/")
            return {path: every[path] for path in paths}

        made: dict[str, jax.Array] = jax.jit(drawn, out_shardings={path: shardings[path] for path in paths})(seed)
        return made

    def begin(self, seed: int, params: Params) -> TrainState:
        """Return the state at step 0 with these parameters, which are on the mesh, and without a teacher's."""
        ema = self.shardings.ema is not None
        begin = jax.jit(
            lambda seed, trainable: state_of({}, trainable, self.transform, seed, ema=ema),
            out_shardings=replace(self.shardings.stored, params={}),
        )
        return replace(begin(seed, self.trainable(params)), params=params)

    def compiled(self, batch: Batch) -> jax.stages.Compiled:
        """Return `step` compiled for batches like `batch`, which has ShapeDtypeStructs. It donates the state too."""
        return cast(jax.stages.Wrapped, self.step()).lower(self.abstract_state(), batch).compile()

    def step(self) -> Step:
        """Return the jitted update, (state, batch) -> (state, metrics). It donates the state."""
        step = make_step(
            self.model,
            self.transform,
            self.experiment.objective,
            learning_rate=self.learning_rate,
            microbatches=self.experiment.microbatches,
            guard=self.experiment.guard,
            specs=self.specs,
            ema=self.experiment.ema,
            teacher=self.teacher,
        )

        def sharded(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
            state = replace(state, opt_state=on_devices(state.opt_state, self.shardings.opt_state))
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
    """Name the optimizer's operations, so that profiles separate them from the model's."""
    return optax.GradientTransformation(transform.init, jax.named_scope("optimizer")(transform.update))


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Return the sharding of the arrays of a batch, [B L]: by rows, and along the rows if the mesh has a context axis."""
    return NamedSharding(mesh, DEFAULT_RULES.partition(("batch", "length"), mesh))
