"""A run's programs compiled in a thread, from shapes alone, while its data is got ready: importing TensorFlow and building its graphs takes as long."""

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

T = TypeVar("T")
MOMENT = 2.0
"""Seconds of compilation after which a word is said."""
THREAD = "t2t-compile"
"""Name of the thread. A process that ends while it runs has to leave without JAX's end, see `compiling`."""


def compiling() -> bool:
    """Return whether a program is being compiled in a thread."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def check_memory(program: Program, left: int | None) -> None:
    """Raise OutOfMemory where a program's state on CPUs, and gradients of its trainable parameters, want more than is left: compilers and allocators of threads abort the process then.

    left: bytes; None where it is not known.
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
            f"the parameters, the optimizer's state and the gradients want {wanted / 1e9:,.1f} GB of memory, and {left / 1e9:,.1f} GB are left"
        )


class BackgroundCompiler:
    """Makes a run's program, its first state and its compiled step, one after the other.

    Each method waits for its part and raises what went wrong there. With several processes nothing is done ahead but each part when it is asked for: they run their
    programs in one order.

    newest: the step of the run's newest checkpoint, None for none: what it goes on from. Of a run that is through nothing is done ahead.
    """

    def __init__(self, experiment: Experiment, *, newest: int | None) -> None:
        self._experiment, self._create = experiment, newest is None
        self._threaded = jax.process_count() == 1 and (newest or 0) < experiment.steps
        self._layout: Future[FeatureConverter] = Future()
        self._program: Future[Program] = Future()
        self._state: Future[TrainState | None] = Future()
        self._step: Future[jax.stages.Compiled] = Future()
        self._remade: dict[Future[Any], Any] = {}
        self._taken = False
        if self._threaded:
            threading.Thread(target=self._make, name=THREAD, daemon=True).start()

    def program(self) -> Program:
        """Return the program. Raises UserError where a parameter does not divide over the mesh."""
        return self._part(self._program, self._build)

    def state(self) -> TrainState:
        """Return a state at step 0, a new one each time."""
        made = None if self._taken else self._part(self._state, self._new)
        self._taken = True
        return self.program().create(self._experiment.seed) if made is None else made

    def step(self, waiting: Callable[[str], None] | None = None) -> jax.stages.Compiled:
        """Return the compiled update, (state, batch) -> (state, metrics); `rows` is to be called before.

        waiting: told where it takes more than a moment.
        """
        timer = threading.Timer(MOMENT, waiting, ["compiling the training step ..."]) if waiting is not None else None
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            return self._part(self._step, self._compile)
        finally:
            if timer is not None:
                timer.cancel()

    def text(self) -> str:
        """Return the text of the compiled update."""
        return self.step().as_text() or ""

    def rows(self, layout: FeatureConverter) -> None:
        """Tell how the task's examples fill rows, of which the step's shapes follow; those of an encoder-decoder are known without."""
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
        if part in self._remade:
            return self._remade[part]
        try:
            return part.result()
        except ImportError:
            # JAX imports some of itself late, and TensorFlow's packages put hooks of their own in the way of imports while they are imported.
            # Whoever asks has done so by then.
            self._remade[part] = make()
            return self._remade[part]

    def _build(self) -> Program:
        program = Program.of(self._experiment, self._experiment.mesh.build())
        check_memory(program, memory.available())
        return program

    def _new(self) -> TrainState | None:
        return self.program().create(self._experiment.seed) if self._create else None

    def _compile(self) -> jax.stages.Compiled:
        program = self.program()
        rows = self._experiment.rows()
        if rows.varies:
            rows = self._layout.result()
        batch = program.abstract_batch(has_inputs=rows.has_inputs, has_types=rows.has_types)
        if self._experiment.profile is None:
            return program.compiled(batch)
        # Compiled programs are kept by what they compute: one from the cache may name its operations after another model's parts.
        jax.config.update("jax_compilation_cache_include_metadata_in_key", True)
        try:
            return program.compiled(batch)
        finally:
            jax.config.update("jax_compilation_cache_include_metadata_in_key", False)
