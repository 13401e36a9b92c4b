"""The full configuration of a run, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from t2t import config_classes
from t2t.adapters import Adapter
from t2t.checkpoint import CheckpointConfig
from t2t.data.config import Data
from t2t.data.converters import FeatureConverter
from t2t.data.kind_converters import converter
from t2t.data.values import with_values
from t2t.errors import UserError
from t2t.limits import Configuration, Count, CountOrZero, Parts, Seed
from t2t.nn.capabilities import VALUES
from t2t.nn.model import EXECUTION, Model, ModelConfig
from t2t.objectives import CrossEntropy, Objective
from t2t.optim import Ema, OptimizerConfig, Trainable
from t2t.optim.paths import flatten_specs
from t2t.paths import LocalPath
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from t2t.train.guard import Guard
from t2t.train.profile import steps_of
from t2t.vocabularies import Vocabulary


@dataclass(frozen=True, kw_only=True)
class StartFrom(Configuration):
    """Initial parameters from a checkpoint of another run.

    Args:
        run: directory of the other run. None starts from random parameters.
        step: step of the checkpoint. None takes the newest one.
        include: glob patterns of the parameter paths to take ("encoder/**").
        exclude: glob patterns of parameter paths that are not taken, even if they match `include`.
        plain_weights: take the trained parameters of a run that keeps a running mean of them (`ema`), instead of the mean.
    """

    run: LocalPath | None = None
    step: CountOrZero | None = None
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()
    plain_weights: bool = False

    @property
    def runs(self) -> tuple[str, ...]:
        """The directories of the other runs."""
        return () if self.run is None else (self.run,)


@dataclass(frozen=True, kw_only=True)
class StartFromDecoders(StartFrom):
    """Initial parameters of an encoder-decoder from one or two decoder-only runs, see `t2t.checkpoint.encoder_decoder_params`.

    Args:
        run: directory of the run that gives the encoder, and the decoder too without `decoder_run`. None starts from random parameters.
        step: step of its checkpoint. None takes the newest one.
        decoder_run: directory of the run that gives the decoder, if it is another one.
        decoder_step: step of the checkpoint of `decoder_run`. None takes the newest one.
        include: glob patterns of the parameter paths to take, by their names in the encoder-decoder ("encoder/**").
        exclude: glob patterns of parameter paths that are not taken, even if they match `include` ("decoder/**/cross_attention*").
        plain_weights: take the trained parameters of a run that keeps a running mean of them (`ema`), instead of the mean.
    """

    decoder_run: LocalPath | None = None
    decoder_step: CountOrZero | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoder_run is not None and self.run is None:
            raise UserError(
                f"start_from.decoder_run is {self.decoder_run} (--start-from.decoder-run), but start_from.run is None (--start-from.run)."
                f" Nearest: --start-from.run {self.decoder_run}."
            )
        if self.decoder_step is not None and self.decoder_run is None:
            raise UserError(
                f"start_from.decoder_step is {self.decoder_step} (--start-from.decoder-step), but start_from.decoder_run is None: one run gives"
                " encoder and decoder. Nearest: --start-from.step."
            )

    @property
    def runs(self) -> tuple[str, ...]:
        """The directories of the other runs, that of the encoder first."""
        return (*super().runs, *(() if self.decoder_run is None else (self.decoder_run,)))


@dataclass(frozen=True, kw_only=True)
class StartFromLayers(StartFrom):
    """Initial parameters from some of the layers of a deeper model, as DistilBERT starts (Sanh et al. 2019), see `t2t.checkpoint.params_of_layers`.

    Args:
        run: directory of the other run. None starts from random parameters.
        step: step of the checkpoint. None takes the newest one.
        layers: for each layer of each stack, the layer of the other run's stack, from 0. () spaces them evenly: 0 2 4 of six layers.
        include: glob patterns of the parameter paths to take, by their names in this model ("encoder/**").
        exclude: glob patterns of parameter paths that are not taken, even if they match `include`.
        plain_weights: take the trained parameters of a run that keeps a running mean of them (`ema`), instead of the mean.
    """

    layers: tuple[CountOrZero, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Experiment(Configuration):
    """The configuration of a training run.

    Args:
        model: architecture and sizes of the model.
        data: task, lengths and batch size of the training data.
        optimizer: optimizer and learning rate schedule.
        adapter: parameters beside those of the model, which are trained instead of them.
        trainable: which parameters are trained. The others are frozen.
        objective: the training objective.
        ema: running mean of the parameters, which is evaluated and used in their place.
        mesh: layout of the devices.
        checkpoint: when to save checkpoints, and how many to keep.
        evaluation: what to evaluate, and when.
        guard: how to handle bad steps.
        start_from: initial parameters from another run.
        steps: number of training steps.
        seed: random seed of the parameters and of dropout. Also of the order of the data if `data.seed` is None.
        microbatches: number of parts in which a batch is computed, one after the other, to save memory. It does not change the loss.
        log_every: number of steps between two lines of metrics. Python waits for the device only at these steps.
        profile: steps to trace into RUN/profile: "10:15" traces steps 10 to 15. None traces nothing.
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
    adapter: Adapter = Adapter()
    trainable: Trainable = Trainable()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: Evaluation = Evaluation()
    guard: Guard = Guard()
    ema: Ema = Ema()
    start_from: StartFrom = StartFrom()

    def built(self, *, portable: bool = False) -> Model:
        """Return the model with its adapter and its quantized kernels.

        portable: without kernels of an accelerator, for evaluation and inference.
        Raises UserError if the adapter or the quantization does not fit the model.
        """
        model = (self.model.portable() if portable else self.model).build()
        return self.trainable.quantized(self.adapter.applied(model))

    def resolved_data(self) -> Data:
        """Return `data`, with the experiment's seed if it has none."""
        return self.data if self.data.seed is not None else replace(self.data, seed=self.seed)

    def rows(self, *, has_inputs: bool = True, has_types: bool = False) -> FeatureConverter:
        """Return the converter from examples to rows. has_inputs, has_types: whether the task has these features."""
        rows = converter(
            self.model.kind,
            inputs_length=self.data.inputs_length,
            targets_length=self.data.targets_length,
            has_inputs=has_inputs,
            has_types=has_types,
            loss_on_inputs=self.data.loss_on_inputs,
        )
        if self.model.output in VALUES:
            rows = with_values(self.model.num_labels)(rows)
        return self.objective.converter(rows)

    @classmethod
    def upgraded(cls, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the fields of an older run.json under their current names.

        `objective` was once called `loss`, and the model could hold a part of it. `trainable` was the optimizer's `freeze`.
        """
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
    "objective.teacher:",
    "objective.reference:",
    "optimizer.state_memory:",
    *(f"model.{name}:" for name in EXECUTION),
)
"""Fields, or prefixes of fields, that may change when a run resumes. They affect where and how long it computes, but not the result."""


def check(experiment: Experiment, device_count: int) -> None:
    """Raise UserError if the configuration cannot work. This runs before any slow work starts."""
    if experiment.profile is not None:
        steps_of(experiment.profile, experiment.steps)
    sizes = experiment.mesh.sizes(device_count)
    data, parts = experiment.data, sizes["data"] * sizes["fsdp"] * sizes["expert"]
    if (last := data.ramp.rows[-1]) != data.batch_size:
        raise UserError(
            f"batch_ramp {data.batch_ramp} (--data.batch-ramp) ends with {last} rows, but batch_size is {data.batch_size} (--batch-size)."
            f" Nearest: --batch-size {last}, or --data.batch-ramp None."
        )
    for rows in data.ramp.rows:
        ramp = f"batch_ramp {data.batch_ramp} (--data.batch-ramp): a batch of {rows} rows"
        name = f"batch_size {rows} (--batch-size)" if data.batch_ramp is None else ramp
        _check_divides(name, rows, parts, f"mesh {_rows_of(sizes)}")
        together = parts * experiment.microbatches
        _check_divides(name, rows, together, f"{experiment.microbatches} microbatches on {parts} devices")
    _check_experts(experiment, sizes["expert"])
    _check_lengths(experiment, sizes["context"])
    experiment.model.check_run(packing=experiment.data.pack, context=sizes["context"])
    _check_evaluation(experiment)
    if experiment.trainable.frozen_storage == "reference" and experiment.start_from.run is None:
        raise UserError(
            "trainable.frozen_storage reference (--trainable.frozen-storage) needs a checkpoint that the run starts from (--start-from.run)."
            " Nearest: copy, or set --start-from.run."
        )
    if experiment.trainable.frozen_storage == "reference" and isinstance(
        experiment.start_from, StartFromDecoders | StartFromLayers
    ):
        raise UserError(
            "trainable.frozen_storage reference (--trainable.frozen-storage): the frozen parameters have other names or other layers in the run"
            f" that this one starts from ({type(experiment.start_from).__name__}). Nearest: copy."
        )
    if experiment.trainable.quantize != "none":
        _check_quantized(experiment)
    _check_adapter(experiment, sizes["context"])
    experiment.objective.check(experiment.model)
    experiment.objective.check_adapter(experiment.adapter)
    if experiment.objective.whole_batch and experiment.microbatches > 1:
        raise UserError(
            f"microbatches {experiment.microbatches} (--microbatches): objective {type(experiment.objective).__name__} compares all rows of a batch with each other."
            " Nearest: 1."
        )
    weight = experiment.data.loss_on_inputs
    if weight and experiment.model.noncausal_prefix:
        raise UserError(
            f"data.loss_on_inputs {weight} (--data.loss-on-inputs): a decoder with a non-causal prefix (model.mask 'prefix') sees its inputs"
            " and cannot learn to predict them. Nearest: 0.0, or --model.mask causal."
        )
    if weight and not experiment.model.can("predict_inputs"):
        raise UserError(
            f"data.loss_on_inputs {weight} (--data.loss-on-inputs): a model of kind {experiment.model.kind!r} does not predict its inputs,"
            " only a decoder does. Nearest: 0.0."
        )


def _check_quantized(experiment: Experiment) -> None:
    """Raise UserError if there are no kernels to quantize, or none to start from."""
    experiment.built()
    if experiment.start_from.run is None:
        raise UserError(
            f"trainable.quantize {experiment.trainable.quantize} (--trainable.quantize): quantized kernels are not trained, so they need a run to start from"
            " (--start-from.run). Nearest: none, or set --start-from.run."
        )


def _check_adapter(experiment: Experiment, context: int) -> None:
    """Raise UserError if the adapter does not fit the model, or its virtual tokens the run."""
    adapter = experiment.adapter
    if not adapter.enabled:
        return
    experiment.built()
    if adapter.virtual_tokens is None:
        return
    where = f"adapter.virtual_tokens {adapter.virtual_tokens} (--adapter.virtual-tokens)"
    if experiment.data.pack:
        raise UserError(f"{where}: a row must hold one example, but data.pack is True (--data.pack). Nearest: False.")
    if not isinstance(experiment.objective, CrossEntropy):
        raise UserError(
            f"{where}: the objective {type(experiment.objective).__name__} does not support them. Nearest: CrossEntropy, or --adapter.kind lora."
        )
    if context > 1:
        raise UserError(f"{where}: rows cannot be divided along their length (--mesh.context {context}). Nearest: 1.")
    rows, limit = experiment.rows().rows, experiment.model.max_length
    longest = max(rows.values()) + adapter.virtual_tokens
    if limit is not None and longest > limit:
        raise UserError(
            f"{where}: together with the rows they are {longest} tokens, more than the model's {limit} learned positions. Nearest:"
            f" {max(limit - max(rows.values()), 1)}, or shorter rows (--data)."
        )


def check_vocabulary(experiment: Experiment, vocabulary: Vocabulary) -> None:
    """Raise UserError if the vocabulary has more ids than the model has embeddings."""
    size = experiment.model.vocab_size
    if size < vocabulary.size:
        raise UserError(
            f"vocab_size {size} (--model.vocab-size) is less than the {vocabulary.size} ids of the vocabulary of task"
            f" {experiment.data.task!r}. Nearest: {-(-vocabulary.size // 128) * 128}."
        )


def _check_divides(name: str, rows: int, parts: int, what: str) -> None:
    if rows % parts:
        down, up = rows // parts * parts, -(-rows // parts) * parts
        raise UserError(f"{name} is not divisible by {what}. Nearest: {f'{down} or {up}' if down else up}.")


def _check_evaluation(experiment: Experiment) -> None:
    """Raise UserError if a length of the evaluation exceeds the positions of the model."""
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
            f"length {length} (--evaluation.length) to generate is more than the {room} positions that remain of the model's {limit}."
            f" Nearest: {max(room, 1)}."
        )


def _rows_of(sizes: Mapping[str, int]) -> str:
    """Return the axes of a mesh that divide rows, for errors."""
    names = ("data", "fsdp", *(["expert"] if sizes["expert"] > 1 else []))
    return " x ".join(f"{name}={sizes[name]}" for name in names)


def _check_experts(experiment: Experiment, parts: int) -> None:
    """Raise UserError if experts should be divided over devices and there are none, or their number does not divide."""
    if parts == 1:
        return
    specs = flatten_specs(experiment.model.build().specs).values()
    numbers = {one.shape[one.axes.index("experts")] for one in specs if "experts" in one.axes}
    if not numbers:
        raise UserError(
            f"mesh.expert is {parts} (--mesh.expert), but no layer of the model has experts (model.num_experts). Nearest: 1."
        )
    possible = [size for size in range(1, min(numbers) + 1) if not any(number % size for number in numbers)]
    if parts not in possible:
        raise UserError(
            f"mesh.expert is {parts} (--mesh.expert), which does not divide the {' and '.join(map(str, sorted(numbers)))} experts of a layer"
            f" (model.num_experts). Nearest: {min(possible, key=lambda size: abs(size - parts))}."
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
                f"{name} {length} (--data) is not divisible by mesh context={context} (--mesh.context). Nearest: {-(-length // context) * context}."
            )
