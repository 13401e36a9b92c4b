"""The state a run begins with: random parameters, or parts of another run's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from t2t.checkpoint import Checkpoints, Reference, initialise
from t2t.errors import UserError
from t2t.nn.model import Model
from t2t.optim.paths import flatten_specs
from t2t.train.program import Program
from t2t.train.run import CHECKPOINTS, VOCABULARY, RunRecord, SavedRun
from t2t.train.state import TrainState
from t2t.vocabularies import Vocabulary


def initial_state(
    record: RunRecord,
    directory: Path,
    program: Program,
    state: TrainState,
    say: Callable[[str], None],
    checkpoints: Checkpoints,
) -> TrainState:
    """Return the state at step 0: `state`, which is new, with what `start_from` names put in.

    checkpoints: the run's own; where frozen parameters stay in the other run, they are told so.

    Raises UserError where `start_from` names no run, or parameters that do not fit this model.
    """
    begin = record.experiment.start_from
    if begin.run is None:
        return state
    source = SavedRun.load(begin.run, begin.step)
    begun = initialise(state.params, source.params(), include=begin.include, exclude=begin.exclude)
    _check_vocabulary(record.vocabulary.in_directory(str(directory / VOCABULARY)), source, program.model, begun.taken)
    if record.experiment.trainable.frozen_storage == "reference":
        checkpoints.keep_apart(program.frozen, _reference(program, source, begun.taken))
    say(f"starting from step {source.step} of {begin.run}: {begun.report()}")
    params = jax.tree.map(jax.device_put, begun.params, program.shardings.params)
    # The optimizer's state may depend on the parameters it begins with.
    restart = jax.jit(program.transform.init, out_shardings=program.shardings.opt_state)
    return dataclasses.replace(state, params=params, opt_state=restart(program.trainable(params)))


def _reference(program: Program, source: SavedRun, taken: Sequence[str]) -> Reference:
    """Return where the frozen parameters stay. Raises UserError for one that does not come from there."""
    for path in sorted(program.frozen - set(taken)):
        raise UserError(
            f"trainable.frozen_storage reference (--trainable.frozen-storage): the frozen parameter {path} is new, it is not taken from"
            f" {source.directory} (--start-from.run). Nearest: copy."
        )
    place = source.directory / CHECKPOINTS
    with Checkpoints(place) as theirs:
        return Reference(
            checkpoints=str(place.resolve()),
            step=source.step,
            checksum=theirs.checksum(source.step),
            parameters=tuple(sorted(program.frozen)),
            dtype=program.experiment.trainable.frozen_dtype,
        )


def _check_vocabulary(own: Vocabulary, source: SavedRun, model: Model, taken: Sequence[str]) -> None:
    """Refuse rows of an embedding, or columns of a head, that were trained for other tokens. Raises UserError."""
    other = source.vocabulary
    if own.identity() == other.identity():
        return
    specs = flatten_specs(model.specs)
    for path in taken:
        if "vocab" in specs[path].axes:
            raise UserError(
                f"start_from.run {source.directory}: its vocabulary is not this run's, but {path} would be taken from it;"
                f" train with the same --vocabulary, or exclude it (--start-from.exclude {path})"
            )
