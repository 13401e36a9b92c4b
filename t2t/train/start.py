"""The initial state of a run: random parameters, or parameters of another run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.checkpoint import Checkpoints, Reference, encoder_decoder_params, initialise, params_of_layers
from t2t.errors import UserError
from t2t.nn.model import Model
from t2t.optim import Trainable
from t2t.optim.paths import flatten_specs
from t2t.optim.state_axes import abstract_params
from t2t.train.experiment import Experiment, StartFromDecoders, StartFromLayers
from t2t.train.program import Program
from t2t.train.run import CHECKPOINTS, VOCABULARY, RunRecord, SavedRun
from t2t.train.state import TrainState
from t2t.types import Params
from t2t.vocabularies import Vocabulary


def initial_state(
    record: RunRecord,
    directory: Path,
    program: Program,
    log: Callable[[str], None],
    checkpoints: Checkpoints,
) -> TrainState:
    """Return the state at step 0 of a run that starts from another one: with the parameters that `start_from` selects, and random ones for the others.

    Only the others are drawn, so that the parameters are in memory once.

    log:         called with one line that reports them.
    checkpoints: those of this run. They store a reference if frozen parameters stay in the other run.

    Raises UserError if `start_from` does not name a run, or if its parameters do not fit this model.
    """
    start_from, seed = record.experiment.start_from, record.experiment.seed
    sources, found = _sources(record.experiment, program.model)
    source = sources[0]
    # Parameters that the source's model only keeps, such as BERT's pooler with a masked-LM head.
    kept = [
        path
        for path, spec in flatten_specs(source.model.specs).items()
        if not spec.trainable and spec.stands_for is None
    ]
    abstract = program.abstract_state().params
    initial = initialise(abstract, found, start_from.include, start_from.exclude, optional=kept)
    del found
    vocabulary = record.vocabulary.in_directory(str(directory / VOCABULARY))
    for one in sources:
        _check_vocabulary(vocabulary, one, program.model, initial.taken)
    if record.experiment.trainable.frozen_storage == "reference":
        for path in sorted(program.frozen - set(initial.taken)):
            raise UserError(
                f"trainable.frozen_storage reference (--trainable.frozen-storage): the frozen parameter {path} is not taken from"
                f" {source.directory} (--start-from.run). Nearest: copy."
            )
        checkpoints.keep_apart(program.frozen, reference_to(source, program.frozen, record.experiment.trainable))
    named = " and ".join(f"step {one.step} of {one.directory}" for one in sources)
    log(f"starting from {named}: {initial.report()}")
    values = flatten_dict(initial.params, sep="/") | program.draw(seed, initial.fresh)
    started = program.model.started(unflatten_dict(values, sep="/"), initial.fresh)
    # The optimizer state and the running mean may depend on the initial parameters.
    return program.begin(seed, jax.tree.map(jax.device_put, started, program.shardings.params))


def _sources(experiment: Experiment, model: Model) -> tuple[list[SavedRun], Params]:
    """Return the runs to start from, and their parameters under the names and in the form that they have in `model`.

    Raises UserError if the kernels of a run are quantized, and those of the model are not quantized in the same format.
    """
    start_from, quantize = experiment.start_from, experiment.trainable.quantize
    assert start_from.run is not None, "a run to start from"
    source = SavedRun.load(start_from.run, start_from.step, plain_weights=start_from.plain_weights)
    theirs = source.experiment.trainable.quantize
    if theirs not in ("none", quantize):
        raise UserError(
            f"trainable.quantize {quantize} (--trainable.quantize): {start_from.run} (--start-from.run) was trained with kernels in {theirs}. Nearest: {theirs},"
            " or start from a merged run: t2t.load(RUN).merge(DIR)."
        )
    floats = abstract_params(model.float_specs)
    if isinstance(start_from, StartFromLayers):
        return [source], model.compressed(params_of_layers(source.params(), floats, start_from.layers))
    if not isinstance(start_from, StartFromDecoders):
        if theirs == "none" and quantize != "none":
            source = source.quantized(quantize, model.quantized_kernels)
        return [source], source.params()
    params = source.params()
    if start_from.decoder_run is None:
        return [source], model.compressed(encoder_decoder_params(params, params, floats))
    decoder = SavedRun.load(start_from.decoder_run, start_from.decoder_step, plain_weights=start_from.plain_weights)
    return [source, decoder], model.compressed(encoder_decoder_params(params, decoder.params(), floats))


def reference_to(source: SavedRun, frozen: Collection[str], trainable: Trainable) -> Reference:
    """Return the reference to frozen parameters of another run. Raises UserError if they are a running mean."""
    if source.has_mean:
        raise UserError(
            "trainable.frozen_storage reference (--trainable.frozen-storage): the reference is to the trained parameters of"
            f" {source.directory} (--start-from.run), not to their running mean. Nearest: copy, or --start-from.plain-weights."
        )
    place = source.directory / CHECKPOINTS
    with Checkpoints(place) as theirs:
        return Reference(
            checkpoints=str(place.resolve()),
            step=source.step,
            checksum=theirs.checksum(source.step),
            parameters=tuple(sorted(frozen)),
            dtype=trainable.frozen_dtype,
            quantize=trainable.quantize if source.experiment.trainable.quantize == "none" else "none",
        )


def _check_vocabulary(vocabulary: Vocabulary, source: SavedRun, model: Model, taken: Sequence[str]) -> None:
    """Raise UserError if an embedding or a head is taken from a run with another vocabulary."""
    other = source.vocabulary
    if vocabulary.identity() == other.identity():
        return
    specs = flatten_specs(model.specs)
    for path in taken:
        if "vocab" in specs[path].axes:
            raise UserError(
                f"start_from.run {source.directory} (--start-from.run) has another vocabulary than this run, but {path} is taken from it;"
                f" use the same --vocabulary, or exclude it (--start-from.exclude {path})"
            )
