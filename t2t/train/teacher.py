"""The teacher of a run: the model of another run that the objective reads (`Objective.teacher_run`). Its parameters are beside the training state.

RUN/teacher.json names the teacher's checkpoint and its checksum. A resumed run reads the same parameters, or is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import jax

from t2t.checkpoint import Checkpoints
from t2t.errors import UserError
from t2t.json_files import expect, read_json
from t2t.nn.model import Model
from t2t.objectives.objective import TeacherRun
from t2t.train.experiment import Experiment
from t2t.train.run import CHECKPOINTS, RECORD, SavedRun, read_record
from t2t.types import Params
from t2t.vocabularies import Vocabulary

if TYPE_CHECKING:
    from t2t.train.program import Program

TEACHER = "teacher.json"


@dataclass(frozen=True)
class Source:
    """The content of RUN/teacher.json.

    run:      absolute path of the teacher's run when training started. The run may move: `checksum` identifies the parameters.
    step:     step of its checkpoint.
    checksum: checksum of the parameters of that step, see `Checkpoints.checksum`.
    """

    run: str
    step: int
    checksum: str


def teacher_model(experiment: Experiment) -> Model | None:
    """Return the teacher's model, with its adapter; None if the objective has no teacher. It is computed in the way of the student's (`execution`).

    Raises UserError if the teacher is not a run, or if it does not score what the student scores.
    """
    if (named := experiment.objective.teacher_run) is None:
        return None
    place = Path(named.directory)
    if (place / "config.json").is_file() and not (place / RECORD).is_file():
        raise UserError(
            f"{_option(named)} is a model of transformers, not a run. Nearest: the run that t2t import {named.directory} --dir RUN makes."
        )
    record = read_record(Path(named.directory))
    adapter, config = record.experiment.adapter, record.experiment.model
    execution = {name: value for name, value in experiment.model.execution.items() if name in config.execution}
    config = replace(config, **execution)
    _check_fits(experiment, replace(record.experiment, model=config), _option(named))
    return adapter.applied(config.build())


def check_vocabulary(experiment: Experiment, vocabulary: Vocabulary) -> None:
    """Raise UserError if the objective's teacher was trained with another vocabulary than that of this run."""
    if (named := experiment.objective.teacher_run) is None:
        return
    theirs = SavedRun(Path(named.directory), read_record(Path(named.directory)), 0).vocabulary
    if vocabulary.identity() != theirs.identity():
        raise UserError(
            f"{_option(named)} has another vocabulary than task {experiment.data.task!r}, so its probabilities are of other tokens."
            " Nearest: train with the teacher's vocabulary (--vocabulary)."
        )


def teacher_params(program: Program, directory: Path, *, resumed: bool) -> Params | None:
    """Return the teacher's parameters on the program's mesh, None if there is no teacher. Call this on all processes.

    directory: the run's directory, which gets or has the file that names the teacher's checkpoint.
    resumed:   read the checkpoint that the file names; otherwise the objective's, and write the file.

    Raises UserError if the checkpoint is missing or damaged, or if its checksum is not that of the file.
    """
    named = program.experiment.objective.teacher_run
    if named is None or program.teacher is None:
        return None
    source = _read(directory / TEACHER) if resumed else None
    run = SavedRun.load(named.directory, named.step if source is None else source.step)
    with Checkpoints(run.directory / CHECKPOINTS, run.experiment.checkpoint) as checkpoints:
        checksum = checkpoints.checksum(run.step)
        if source is not None and checksum != source.checksum:
            raise UserError(
                f"{_option(named)}: its checkpoint of step {run.step} has changed since the training started: the checksum does not match"
                f" {directory / TEACHER}. Restore the original checkpoint."
            )
        params = checkpoints.restore_params(run.step, program.abstract_teacher())
    if source is None and jax.process_index() == 0:
        _write(directory / TEACHER, Source(str(run.directory.resolve()), run.step, checksum))
    return params


def _check_fits(experiment: Experiment, theirs: Experiment, option: str) -> None:
    ours, config = experiment.model, theirs.model
    if config.kind != ours.kind or config.output != ours.output:
        raise UserError(
            f"{option}: the teacher is a model of kind {config.kind!r} that scores {config.output!r}, the student is of kind {ours.kind!r} and scores"
            f" {ours.output!r}. Nearest: a teacher like the student."
        )
    if not config.can("predict"):
        raise UserError(f"{option}: the teacher, a {type(config).__name__}, does not predict targets.")
    if ours.output == "tokens" and config.vocab_size != ours.vocab_size:
        raise UserError(
            f"vocab_size {ours.vocab_size} (--model.vocab-size) is not the {config.vocab_size} of the teacher, {option}. Nearest: {config.vocab_size}."
        )
    if config.labels != ours.labels:
        raise UserError(
            f"{option}: the labels of the teacher are {', '.join(config.labels)}, those of the student {', '.join(ours.labels)}."
            " Nearest: the same labels in the same order (--model.labels)."
        )
    longest = max(experiment.rows().rows.values())
    if config.max_length is not None and config.max_length < longest:
        raise UserError(
            f"{option}: the rows have {longest} tokens (--data), more than the teacher's {config.max_length} learned positions. Nearest: {config.max_length}."
        )
    if experiment.data.loss_on_inputs and not config.can("predict_inputs"):
        raise UserError(
            f"data.loss_on_inputs {experiment.data.loss_on_inputs} (--data.loss-on-inputs): the teacher, {option}, sees its inputs and does not"
            " predict them. Nearest: 0.0."
        )
    if theirs.adapter.virtual_tokens is not None:
        raise UserError(
            f"{option}: the teacher has virtual tokens (adapter.kind 'prompt'). Nearest: a teacher with another adapter, or none."
        )
    if theirs.trainable.quantize != "none":
        raise UserError(
            f"{option}: the teacher was trained with kernels in {theirs.trainable.quantize} (trainable.quantize). Nearest: the merged run,"
            " t2t.load(RUN).merge(DIR)."
        )
    experiment.objective.check_teacher(ours, config)
    config.check_run(packing=experiment.data.pack, context=experiment.mesh.context)


def _option(named: TeacherRun) -> str:
    return f"objective.{named.option} {named.directory} (--objective.{named.option})"


def _read(file: Path) -> Source:
    if not file.is_file():
        raise UserError(f"{file} is missing: it names the teacher's checkpoint, without which the run cannot resume.")
    value, where = read_json(file), f"{file}: the file is damaged"
    return Source(
        run=expect(value.get("run"), str, where),
        step=expect(value.get("step"), int, where),
        checksum=expect(value.get("checksum"), str, where),
    )


def _write(file: Path, source: Source) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(asdict(source), indent=2) + "\n")
    partial.replace(file)
