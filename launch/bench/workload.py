"""The measured recipe and the state that all parts of the benchmark share."""

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
"""Number of different batches to cycle through."""


@dataclass(frozen=True, kw_only=True)
class Workload(Configuration):
    """A recipe, and how to measure it.

    recipe:   name of the recipe.
    options:  options of the recipe from the command line.
    limits:   limits for each quantity.
    ceilings: the machine's ceilings; None if no part needs them.
    source:   source of the batches for steps: full rows of random tokens, or the recipe's task.
    rows:     requests to decode at a time.
    prompt:   tokens of a request; None for the recipe's inputs length.
    generate: tokens to generate; None for the recipe's targets length, at most 64.
    scratch:  directory for checkpoints and runs; None for the system's temporary directory.
    devices:  devices of the mesh; None for all devices.
    log:      function that prints a line of progress.
    note:     function that adds a note to the results: conventions, skipped parts.
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
    log: Callable[[str], None] = lambda _: None
    note: Callable[[str], None] = lambda _: None

    @functools.cached_property
    def program(self) -> Program:
        """The training program. Raises UserError if it cannot be divided over the mesh."""
        return Program.of(self.experiment, self.experiment.mesh.build(self.devices))

    @property
    def dtype(self) -> str:
        """Type of the model's computation."""
        return self.experiment.model.dtype

    def params(self) -> Params:
        """Return random parameters, sharded over the mesh."""
        program = self.program
        create = jax.jit(program.model.init, out_shardings=program.shardings.params)
        return jax.block_until_ready(create(jax.random.key(0)))

    def batches(self) -> list[Batch]:
        """Return a few batches of NumPy arrays, of random tokens or from the task."""
        if self.source == "synthetic":
            return [synthetic.batch(self.experiment, seed) for seed in range(BATCHES)]
        host = self.open_data()
        try:
            return [next(host) for _ in range(BATCHES)]
        finally:
            host.close()

    def on_devices(self, batch: Batch) -> Batch:
        """Return a batch that is sharded over the mesh."""
        extra = self.program.extra_shardings(self.experiment.rows())
        return to_device(batch, self.program.batch_sharding(), self.experiment.data.batch_size, extra=extra)

    def open_data(self) -> BatchIterator:
        """Open the recipe's task. Imports TensorFlow. Raises UserError if the task cannot be read or does not fit the model."""
        from t2t.api.quiet import register_tasks

        register_tasks()
        from t2t.data.answers import check_model
        from t2t.data.pipeline import batches, task_vocabulary

        data = replace(self.experiment.resolved_data(), batch_ramp=None)  # measured at the full size
        check_model(data, self.experiment.model)
        check_vocabulary(self.experiment, task_vocabulary(data))
        return batches(data, self.experiment.model.kind, convert=self.experiment.objective.converter)

    def with_matmul_share(self, rate: Measurement) -> Measurement:
        """Add the share of the machine's matmul ceiling, in the model's type, to a rate in FLOP/s."""
        if self.ceilings is None:
            return rate
        share, of = self.ceilings.of_matmul(self.dtype, rate.median)
        return replace(rate, share=share, of=of)

    def with_copy_share(self, rate: Measurement) -> Measurement:
        """Add the share of the machine's copy ceiling to a rate in bytes/s."""
        if self.ceilings is None:
            return rate
        share, of = self.ceilings.of_copy(rate.median)
        return replace(rate, share=share, of=of)

    def random_ids(self, rows: int, length: int) -> list[list[int]]:
        """Return requests of random ids from 1 on."""
        random = np.random.default_rng(0)
        return random.integers(1, self.experiment.model.vocab_size, (rows, length)).tolist()
