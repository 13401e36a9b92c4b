"""The whole of what a run is, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from t2t import config_classes
from t2t.checkpoint import CheckpointConfig
from t2t.data.config import Data
from t2t.data.converters import FeatureConverter, converter
from t2t.errors import UserError
from t2t.limits import Configuration, Count, CountOrZero, Parts, Seed
from t2t.nn.model import EXECUTION, ModelConfig
from t2t.objectives import CrossEntropy, Objective
from t2t.optim import OptimizerConfig, Trainable
from t2t.paths import LocalPath
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from t2t.train.guard import Guard
from t2t.train.profile import steps_of
from t2t.vocabularies import Vocabulary


@dataclass(frozen=True, kw_only=True)
class StartFrom(Configuration):
    """Parameters to begin with, out of another run's checkpoint.

    Args:
        run: the other run's directory; None begins from random parameters.
        step: which checkpoint; None takes the newest.
        include: glob patterns of parameter paths to take ("encoder/**").
        exclude: patterns of paths not to take, of those.
    """

    run: LocalPath | None = None
    step: CountOrZero | None = None
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment(Configuration):
    """What is trained, on what, how, and for how long.

    Args:
        model: the architecture and its sizes.
        data: what is read, and how it fills rows.
        optimizer: what turns gradients into updates.
        trainable: which parameters are trained; the others are frozen.
        objective: what is minimised.
        mesh: how devices are laid out.
        checkpoint: what is saved and kept.
        evaluation: what is evaluated, and when.
        guard: what to do with bad steps.
        start_from: parameters to begin with.
        steps: updates to make.
        seed: of the parameters, of dropout and, where `data.seed` is None, of the data's order.
        microbatches: parts a batch is computed in, one after the other, to save memory; they do not change the loss.
        log_every: steps between two lines of metrics; the only time the step's Python waits for the device.
        profile: steps to trace into RUN/profile, "10:15" for the 10th to the 15th; None traces nothing and costs nothing.
    """

    model: ModelConfig
    data: Data
    optimizer: OptimizerConfig
    steps: Count = 1000
    seed: Seed = 0
    microbatches: Parts = 1
    log_every: Count = 10
    profile: str | None = None
    objective: Objective = CrossEntropy()
    trainable: Trainable = Trainable()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: Evaluation = Evaluation()
    guard: Guard = Guard()
    start_from: StartFrom = StartFrom()

    def resolved_data(self) -> Data:
        """Return `data` with its seed filled in."""
        return self.data if self.data.seed is not None else replace(self.data, seed=self.seed)

    def rows(self, *, has_inputs: bool = True, has_types: bool = False) -> FeatureConverter:
        """Return how examples fill rows, as far as the experiment tells without its task. has_inputs, has_types: as the task has them."""
        return self.objective.converter(
            converter(
                self.model.kind,
                inputs_length=self.data.inputs_length,
                targets_length=self.data.targets_length,
                has_inputs=has_inputs,
                has_types=has_types,
                loss_on_inputs=self.data.loss_on_inputs,
            )
        )

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of a run.json as they are called now: `objective` was `loss` once, and a part of it could stand in the model; `trainable` was the optimizer's `freeze`."""
        fields = _freeze_upgraded(fields)
        if "loss" not in fields or "objective" in fields:
            return fields
        model, objective = fields.get("model"), fields["loss"]
        if isinstance(model, Mapping):
            known = config_classes.find(model.get("class"))
            if known is not None and issubclass(known, ModelConfig):
                objective = known.old_objective(model, objective)
        return {**{name: value for name, value in fields.items() if name != "loss"}, "objective": objective}


def _freeze_upgraded(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    optimizer = fields.get("optimizer")
    if not isinstance(optimizer, Mapping) or "freeze" not in optimizer:
        return fields
    frozen = optimizer["freeze"]
    trainable = {"trainable": {"class": config_classes.tag(Trainable), "exclude": frozen}} if frozen else {}
    return {**fields, "optimizer": {name: optimizer[name] for name in optimizer if name != "freeze"}, **trainable}


ADJUSTABLE = (
    "steps",
    "log_every",
    "profile",
    "mesh.",
    "checkpoint.",
    "evaluation.",
    "guard.",
    "microbatches",
    *(f"model.{name}:" for name in EXECUTION),
)
"""Fields (or beginnings of their differences) that a run may change when it goes on: they change where and how long it computes, not what."""


def check(experiment: Experiment, device_count: int) -> None:
    """Refuse what cannot work, before any long work starts. Raises UserError."""
    if experiment.profile is not None:
        steps_of(experiment.profile, experiment.steps)
    sizes = experiment.mesh.sizes(device_count)
    rows, parts = experiment.data.batch_size, sizes["data"] * sizes["fsdp"]
    _check_divides(rows, parts, f"mesh data={sizes['data']} x fsdp={sizes['fsdp']}")
    _check_divides(rows, parts * experiment.microbatches, f"{experiment.microbatches} microbatches on {parts} devices")
    _check_lengths(experiment, sizes["context"])
    experiment.model.check_run(packing=experiment.data.pack, context=sizes["context"])
    _check_evaluation(experiment)
    if experiment.trainable.frozen_storage == "reference" and experiment.start_from.run is None:
        raise UserError(
            "trainable.frozen_storage reference (--trainable.frozen-storage) refers to the checkpoint that the run begins with, and there is none."
            " Nearest: copy, or name the run (--start-from.run)."
        )
    experiment.objective.check(experiment.model)
    weight = experiment.data.loss_on_inputs
    if weight and experiment.model.noncausal_prefix:
        raise UserError(
            f"data.loss_on_inputs {weight} (--data.loss-on-inputs): a decoder with a non-causal prefix (model.mask 'prefix') sees its inputs,"
            " there is nothing to predict. Nearest: 0.0, or --model.mask causal."
        )
    if weight and not experiment.model.can("predict_inputs"):
        raise UserError(
            f"data.loss_on_inputs {weight} (--data.loss-on-inputs): a model of kind {experiment.model.kind!r} predicts no inputs, decoders alone do. Nearest: 0.0."
        )


def check_vocabulary(experiment: Experiment, vocabulary: Vocabulary) -> None:
    """Refuse a model that has no row for some id. Raises UserError."""
    size = experiment.model.vocab_size
    if size < vocabulary.size:
        raise UserError(
            f"vocab_size {size} (--model.vocab-size) is less than the {vocabulary.size} ids of the vocabulary of task"
            f" {experiment.data.task!r}. Nearest: {-(-vocabulary.size // 128) * 128}."
        )


def _check_divides(rows: int, parts: int, what: str) -> None:
    if rows % parts:
        down, up = rows // parts * parts, -(-rows // parts) * parts
        raise UserError(
            f"batch_size {rows} (--batch-size) does not divide over {what}."
            f" Nearest: {f'{down} or {up}' if down else up}."
        )


def _check_evaluation(experiment: Experiment) -> None:
    """Refuse lengths of the evaluation that the model has no positions for."""
    limit, evaluation, data = experiment.model.max_length, experiment.evaluation, experiment.data
    if limit is None or evaluation.split is None or not experiment.model.can("generate"):
        return
    prompt, length = evaluation.few_shot.length, evaluation.length
    if prompt is not None and prompt > limit:
        raise UserError(
            f"length {prompt} (--evaluation.few-shot.length) of prompts is more than the model's {limit} positions. Nearest: {limit}."
        )
    if length is None:
        return
    room = experiment.model.room(prompt or data.inputs_length)
    if room is not None and length > room:
        raise UserError(
            f"length {length} (--evaluation.length) to generate is more than the {room} of the model's {limit} positions that are left for it."
            f" Nearest: {max(room, 1)}."
        )


def _check_lengths(experiment: Experiment, context: int) -> None:
    limit = experiment.model.max_length
    for name, length in experiment.rows().rows.items():
        if limit is not None and length > limit:
            raise UserError(
                f"{name} {length} (--data) is longer than the model's {limit} learned positions. Nearest: {limit}."
            )
        if length % context:
            raise UserError(
                f"{name} {length} (--data) does not divide over mesh context={context} (--mesh.context). Nearest: {-(-length // context) * context}."
            )
