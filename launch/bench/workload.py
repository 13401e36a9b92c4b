"""What is measured, and what all parts of the benchmark share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import jax
import numpy as np

from t2t.data.prefetch import to_device
from t2t.launch.bench import synthetic
from t2t.launch.bench.ceilings import Ceilings
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.timing import Limits
from t2t.limits import Configuration, Generated, Length, Rows
from t2t.paths import LocalPath
from t2t.train.experiment import Experiment, check_vocabulary
from t2t.train.program import Program
from t2t.types import Batch, Params

if TYPE_CHECKING:
    from t2t.data.pipeline import BatchIterator

Source = Literal["synthetic", "task"]
BATCHES = 4
"""Different batches that are stepped through."""


@dataclass(frozen=True, kw_only=True)
class Workload(Configuration):
    """A recipe, and how it is measured.

    recipe:   its name, and `options` those of its own that were given.
    limits:   of each quantity.
    ceilings: None where nothing that is measured has a share of them.
    source:   where steps take their batches: full rows of random tokens, or the recipe's task.
    rows:     requests decoded at a time.
    prompt:   tokens of a request; None for what the recipe's rows have for inputs.
    generate: tokens to generate; None for the recipe's targets, 64 at most.
    scratch:  directory for checkpoints and runs; None for the system's.
    devices:  that the mesh is made of; None for all there are.
    say:      told in a line what is going on.
    note:     told what belongs to the results: conventions, what is left out.
    """

    recipe: str
    experiment: Experiment
    limits: Limits
    ceilings: Ceilings | None = None
    options: tuple[str, ...] = ()
    source: Source = "synthetic"
    rows: tuple[Rows, ...] = (1, 8, 64)
    prompt: Length | None = None
    generate: Generated | None = None
    scratch: LocalPath | None = None
    devices: tuple[jax.Device, ...] | None = None
    say: Callable[[str], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None

    @functools.cached_property
    def program(self) -> Program:
        """What training compiles. Raises UserError where it does not divide over the mesh."""
        return Program.of(self.experiment, self.experiment.mesh.build(self.devices))

    @property
    def dtype(self) -> str:
        """What the model computes in."""
        return self.experiment.model.dtype

    def params(self) -> Params:
        """Return random parameters, laid over the mesh."""
        program = self.program
        create = jax.jit(program.model.init, out_shardings=program.shardings.params)
        return jax.block_until_ready(create(jax.random.key(0)))

    def batches(self) -> list[Batch]:
        """Return a few batches of NumPy arrays, of random tokens or the task's."""
        if self.source == "synthetic":
            return [synthetic.batch(self.experiment, seed) for seed in range(BATCHES)]
        host = self.open_data()
        try:
            return [next(host) for _ in range(BATCHES)]
        finally:
            host.close()

    def on_devices(self, batch: Batch) -> Batch:
        """Return a batch laid over the mesh."""
        extra = self.program.extra_shardings(self.experiment.rows())
        return to_device(batch, self.program.batch_sharding(), self.experiment.data.batch_size, extra=extra)

    def open_data(self) -> BatchIterator:
        """Open the recipe's task. Loads TensorFlow. Raises UserError where it cannot be read, or is not for this model."""
        from t2t.api.quiet import register_tasks

        register_tasks()
        from t2t.data.answers import check_model
        from t2t.data.pipeline import batches, task_vocabulary

        data = self.experiment.resolved_data()
        check_model(data, self.experiment.model)
        check_vocabulary(self.experiment, task_vocabulary(data))
        return batches(data, self.experiment.model.kind, convert=self.experiment.objective.converter)

    def beside_matmul(self, rate: Measurement) -> Measurement:
        """Return a rate of FLOP/s with its share of the machine's matrix products in the model's type."""
        if self.ceilings is None:
            return rate
        share, of = self.ceilings.of_matmul(self.dtype, rate.median)
        return replace(rate, share=share, of=of)

    def beside_copy(self, rate: Measurement) -> Measurement:
        """Return a rate of bytes/s with its share of the machine's copying of memory."""
        if self.ceilings is None:
            return rate
        share, of = self.ceilings.of_copy(rate.median)
        return replace(rate, share=share, of=of)

    def random_ids(self, rows: int, length: int) -> list[list[int]]:
        """Return requests of random ids from 1 on."""
        random = np.random.default_rng(0)
        return random.integers(1, self.experiment.model.vocab_size, (rows, length)).tolist()
