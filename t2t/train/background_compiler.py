"""Compile a run's programs in a thread, from shapes only, while the data is prepared. Importing TensorFlow and building its graphs takes as long."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from t2t import memory
from t2t.data.converters import FeatureConverter
from t2t.errors import OutOfMemory
from t2t.train.experiment import Experiment
from t2t.train.program import Program
from t2t.train.state import TrainState
from t2t.types import Batch

T = TypeVar("T")
MOMENT = 2.0
"""Seconds of compilation after which a message is printed."""
THREAD = "t2t-compile"
"""Name of the thread. A process that ends while the thread runs must skip JAX's shutdown, see `compiling`."""


def compiling() -> bool:
    """Return whether a thread is compiling a program."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def check_memory(program: Program, left: int | None) -> None:
    """Raise OutOfMemory if the state and the gradients need more CPU memory than is left. Compilers and allocators would abort the process.

    left: free memory in bytes; None if unknown.
    """
    assert isinstance(program.mesh, Mesh)
    here = [device for device in program.mesh.devices.flat if device.process_index == jax.process_index()]
    if left is None or any(device.platform != "cpu" for device in here):
        return

    def size(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize * len(here)
            for leaf in jax.tree.leaves(tree)
        )

    state = program.abstract_state()
    wanted = size(state) + size(program.trainable(state.params))
    if wanted > left:
        raise OutOfMemory(
            f"the parameters, the optimizer state and the gradients need {wanted / 1e9:,.1f} GB of memory, but only {left / 1e9:,.1f} GB are left"
        )


class BackgroundCompiler:
    """Builds a run's program, its first state and its compiled step, in this order, in a thread.

    Each method waits for its part and raises the errors of that part. There is no thread if the run is finished, or if it has several processes:
    they must run their programs in the same order. Then each method builds its part when it is called.

    newest: step of the run's newest checkpoint, from which it resumes; None if there is none.
    """

    def __init__(self, experiment: Experiment, *, newest: int | None) -> None:
        # The first state of a run that starts from another one needs its parameters (`initial_state`).
        self._experiment, self._create = experiment, newest is None and experiment.start_from.run is None
        self._size = experiment.data.ramp.at(newest or 0)
        self._threaded = jax.process_count() == 1 and (newest or 0) < experiment.steps
        self._layout: Future[FeatureConverter] = Future()
        self._program: Future[Program] = Future()
        self._state: Future[TrainState | None] = Future()
        self._step: Future[jax.stages.Compiled] = Future()
        self._rebuilt: dict[Future[Any], Any] = {}
        self._taken = False
        self._batch: Batch | None = None
        if self._threaded:
            threading.Thread(target=self._make, name=THREAD, daemon=True).start()

    def program(self) -> Program:
        """Return the program. Raises UserError if a parameter is not divisible over the mesh."""
        return self._part(self._program, self._build)

    def state(self) -> TrainState:
        """Return a new state at step 0."""
        state = None if self._taken else self._part(self._state, self._new)
        self._taken = True
        return self.program().create(self._experiment.seed, teacher=False) if state is None else state

    def step(self, waiting: Callable[[str], None] | None = None, *, size: int | None = None) -> jax.stages.Compiled:
        """Return the compiled update, (state, batch) -> (state, metrics). Call `rows` first.

        size:    rows of the batch. None for those of the last call, or at first those of the next step.
        waiting: called with a message if the compilation takes more than `MOMENT` seconds.
        """
        timer = threading.Timer(MOMENT, waiting, ["compiling the training step ..."]) if waiting is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            if size not in (None, self._size):  # the batches have grown
                if self._threaded:
                    self._step.exception()  # the thread has finished
                self._size = size
                self._rebuilt[self._step] = self._compile()
            return self._step_of_task()
        finally:
            if timer is not None:
                timer.cancel()

    def _step_of_task(self) -> jax.stages.Compiled:
        """Return the compiled update. If the task fills rows in its own way, what was compiled before its data was opened is for other shapes."""
        wanted = None
        if self._layout.done():
            wanted = self.program().abstract_batch(rows=self._layout.result(), size=self._size)
        try:
            step = self._part(self._step, self._compile)
        except Exception:  # any error: the objective may need an array that only the task's converter makes
            if wanted is None or self._batch == wanted:
                raise
            step = None
        if step is None or (wanted is not None and self._batch != wanted):
            step = self._rebuilt[self._step] = self._compile()
        return step

    def text(self) -> str:
        """Return the text of the compiled update."""
        return self.step().as_text() or ""

    def rows(self, layout: FeatureConverter) -> None:
        """Set how the task's examples fill rows: the shapes of the step depend on it, except those of an encoder-decoder."""
        if not self._layout.done():
            self._layout.set_result(layout)

    def _make(self) -> None:
        parts: list[tuple[Future[Any], Callable[[], Any]]] = [
            (self._program, self._build),
            (self._state, self._new),
            (self._step, self._compile),
        ]
        for part, make in parts:
            try:
                part.set_result(make())
            except BaseException as error:
                for other, _ in parts:
                    if not other.done():
                        other.set_exception(error)
                return

    def _part(self, part: Future[T], make: Callable[[], Any]) -> T:
        if not self._threaded and not part.done():
            part.set_result(make())
        if part in self._rebuilt:
            return self._rebuilt[part]
        try:
            return part.result()
        except ImportError:
            # JAX imports some of its modules late. While TensorFlow is imported, its import hooks can make this fail in the thread.
            # The caller has imported TensorFlow by now, so build the part again here.
            self._rebuilt[part] = make()
            return self._rebuilt[part]

    def _build(self) -> Program:
        program = Program.of(self._experiment, self._experiment.mesh.build())
        check_memory(program, memory.available())
        return program

    def _new(self) -> TrainState | None:
        return self.program().create(self._experiment.seed, teacher=False) if self._create else None

    def _compile(self) -> jax.stages.Compiled:
        program = self.program()
        rows = self._experiment.rows()
        if rows.varies or self._layout.done():
            rows = self._layout.result()
        self._batch = batch = program.abstract_batch(rows=rows, size=self._size)
        if self._experiment.profile is None:
            return program.compiled(batch)
        # The cache key of a compiled program does not include metadata. A cached program could have the operation names of another model.
        jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
        try:
            return program.compiled(batch)
        finally:
            jax.config.update("jax_compilation_cache_include_metadata_in_key", False)
