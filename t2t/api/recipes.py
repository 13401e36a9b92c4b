"""Recipes: functions that return an experiment. In a recipe's name, the part before the colon is the model family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, update_wrapper

from t2t import models
from t2t.adapters import Adapter
from t2t.api.encoders import encoder_alone, encoder_parameters
from t2t.api.machines import for_accelerators, mesh_for
from t2t.api.published import PUBLISHED, Pretraining
from t2t.api.students import student_of
from t2t.api.unpublished import assumed
from t2t.api.user_code.imports import function_of
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.errors import UserError, nearest
from t2t.models import DecoderConfig
from t2t.models.electra import ElectraConfig, ReplacedTokenDetection
from t2t.objectives import Contrastive, CrossEntropy, Objective, Preference
from t2t.optim import AdamW, Cosine, Trainable
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, StartFrom, StartFromDecoders

Recipe = Callable[[], Experiment]

BYTES = 384
"""Vocabulary size of a byte model: 259 bytes and special tokens plus 100 sentinels, rounded up to a multiple of 128."""

FROM = "from:"
"""Prefix of a run's directory: the recipe that starts from that run."""

DISCRIMINATOR = "discriminator:"
"""Prefix of the directory of an ELECTRA run: the recipe that starts from its discriminator."""

CONTRASTIVE = "contrastive:"
"""Prefix of a run's directory: the recipe that trains vectors of texts with the encoder of that run."""

ENCODER_DECODER = "encoder-decoder:"
"""Prefix of the directory of a decoder's run, or of two with a comma between them: the recipe that adapts them to an encoder-decoder."""

DISTILLED = "distilled:"
"""Prefix of the directory of a teacher, a run or a model to import: the recipe that trains a student with half of its layers."""

PREFERENCES = "preferences:"
"""Prefix of a run's directory: the recipe that trains on pairs of answers (DPO), with that run as start and as reference."""

PREFIX_LM = "docs_prefix_lm"
"""Task of an adapted encoder-decoder, if no other is given: prefix language modelling, as in Zhang et al. (2025)."""

STEPS = 1000
"""Steps of the quickstarts. BERT and ELECTRA take more: BERT learns from only 15% of the tokens."""


def quickstart_t5() -> Experiment:
    """A small byte-level T5: span corruption on documentation, and tasks with prefixes. Takes minutes on a laptop."""
    return Experiment(
        model=models.t5.t5(num_layers=2, d_model=128, num_heads=4, d_ff=256, vocab_size=BYTES, version="1.1"),
        data=Data(task="quickstart", inputs_length=128, targets_length=64, batch_size=24, shards=4),
        # With a peak of 3e-3, a task with two classes stays at chance level for most of the steps. With 1e-3, copying is learned too late.
        optimizer=AdamW(schedule=Cosine(peak=2e-3, warmup=100, steps=STEPS, final=0.05), b2=0.98, weight_decay=0.01),
        steps=STEPS,
        log_every=50,
        objective=CrossEntropy(z_loss=1e-4),
        checkpoint=CheckpointConfig(every=500),
        evaluation=Evaluation(tasks=("quickstart",), every=500, examples=100),
    )


def quickstart_gpt() -> Experiment:
    """A small byte-level GPT: causal language modelling on documentation, and tasks with prefixes. Takes minutes on a laptop."""
    return Experiment(
        model=models.gpt.gpt(num_layers=4, d_model=128, num_heads=4, vocab_size=BYTES, max_length=128, dropout=0.0),
        data=Data(task="quickstart_decoder", inputs_length=48, targets_length=80, batch_size=24, shards=4),
        optimizer=AdamW(schedule=Cosine(peak=3e-3, warmup=100, steps=STEPS, final=0.05), b2=0.98, weight_decay=0.01),
        steps=STEPS,
        log_every=50,
        checkpoint=CheckpointConfig(every=500),
        evaluation=Evaluation(tasks=("quickstart_decoder",), every=500, examples=100),
    )


def quickstart_bert() -> Experiment:
    """A small byte-level BERT: masked language modelling on documentation, and tasks answered in masks. Takes minutes on a laptop."""
    steps = 1500
    return Experiment(
        # Pre-norm and relative positions: for bytes, the neighbours carry most of the information.
        model=models.bert.bert(
            num_layers=2,
            d_model=128,
            num_heads=4,
            vocab_size=BYTES,
            dropout=0.0,
            norm_place="pre",
            final_norm=True,
            positions="relative",
            init_std=0.06,
        ),
        data=Data(task="quickstart_encoder", inputs_length=128, targets_length=128, batch_size=48, shards=4),
        optimizer=AdamW(schedule=Cosine(peak=5e-3, warmup=100, steps=steps, final=0.05), b2=0.98, weight_decay=0.01),
        steps=steps,
        log_every=50,
        checkpoint=CheckpointConfig(every=500),
        evaluation=Evaluation(tasks=("quickstart_encoder",), every=500, examples=100),
    )


def quickstart_electra() -> Experiment:
    """A small byte-level ELECTRA: a generator fills masks in documentation, an encoder finds the replaced tokens. Takes minutes on a laptop."""
    steps = 1500
    return Experiment(
        model=models.electra.electra(
            num_layers=2,
            d_model=128,
            num_heads=4,
            divisor=2,
            vocab_size=BYTES,
            dropout=0.0,
            norm_place="pre",
            final_norm=True,
            positions="relative",
            init_std=0.06,
        ),
        objective=ReplacedTokenDetection(),
        data=Data(task="docs_electra", inputs_length=128, targets_length=128, batch_size=48, shards=4),
        optimizer=AdamW(schedule=Cosine(peak=3e-3, warmup=100, steps=steps, final=0.05), b2=0.98, weight_decay=0.01),
        steps=steps,
        log_every=50,
        checkpoint=CheckpointConfig(every=500),
        evaluation=Evaluation(tasks=("docs_electra",), every=500, examples=100),
    )


def pretrain(preset: str) -> Experiment:
    """Pretrain a preset on C4 with the published settings (`t2t.api.published`).

    The objectives: span corruption for T5, text infilling with permuted sentences for BART, causal language modelling for GPT and LLaMA, masked
    language modelling for BERT, ModernBERT and NeoBERT, replaced token detection for ELECTRA.
    """
    published = PUBLISHED[preset]
    config = for_accelerators(models.preset(preset), published.length)
    data = _data(preset, published)
    return Experiment(
        model=config,
        data=data,
        optimizer=published.optimizer,
        steps=published.steps,
        objective=_objective(preset),
        mesh=mesh_for(config),
        log_every=100,
        checkpoint=CheckpointConfig(every=5_000),
        evaluation=Evaluation(tasks=(data.task,), every=5_000, examples=1_000),
    )


def _objective(preset: str) -> Objective:
    family, _, size = preset.partition(":")
    if family == "electra":  # the large model masks 25% of the tokens (Clark et al. 2020, table 6)
        return ReplacedTokenDetection(masked_share=0.25 if size == "large" else 0.15)
    return CrossEntropy(z_loss=1e-4 if family == "t5" else 0.0)


def _data(preset: str, published: Pretraining) -> Data:
    family, _, size = preset.partition(":")
    length, rows = published.length, published.rows
    match family:
        case "t5":
            # 15% of 512 tokens in spans of 3, with one sentinel per span: 114 targets (Raffel et al. 2020, section 3.1.4).
            return Data(task="c4_span_corruption", inputs_length=length, targets_length=114, batch_size=rows)
        case "bert":
            task = "c4_masked_lm"
        case "modernbert":
            task = "c4_masked_lm_30"
        case "neobert":
            task = "c4_masked_lm_20"
        case "bart":
            task = "c4_bart"
        case "electra":
            task = "c4_electra_25" if size == "large" else "c4_electra"
        case _:
            return Data(
                task="c4_causal_lm", inputs_length=1, targets_length=length - 1, batch_size=rows, loss_on_inputs=1.0
            )
    return Data(task=task, inputs_length=length, targets_length=length, batch_size=rows, batch_ramp=published.ramp)


def _pretraining(preset: str) -> Recipe:
    """Return the recipe of a preset. Its docstring, which `--help` shows, names the source of the settings."""
    recipe = update_wrapper(partial(pretrain, preset), pretrain)
    published = PUBLISHED[preset]
    recipe.__doc__ = f"Pretrain {preset} on C4 with the published settings. Source: {published.source}. Our choice: {published.ours}."
    return recipe


def from_run(directory: str) -> Experiment:
    """Start a new run from another run's model, parameters and vocabulary (`from:RUN`). Options can change its data and optimizer."""
    from t2t.api.user_code.loading import load_run

    run = load_run(directory)
    old = run.experiment
    return replace(
        old,
        data=replace(old.data, vocabulary=run.vocabulary),
        start_from=StartFrom(run=directory, step=run.step),
    )


def discriminator_of(directory: str) -> Experiment:
    """Start from the discriminator of an ELECTRA run: an encoder with a new masked-LM head (`discriminator:RUN`)."""
    experiment = from_run(directory)
    if not isinstance(experiment.model, ElectraConfig):
        raise UserError(
            f"{DISCRIMINATOR}{directory}: the run's model is a {type(experiment.model).__name__}, not an ELECTRA, and has no discriminator. Nearest: {FROM}{directory}."
        )
    start_from = replace(experiment.start_from, include=("embeddings/**", "encoder/**"))
    objective = experiment.objective
    if isinstance(objective, ReplacedTokenDetection):
        objective = CrossEntropy(z_loss=objective.z_loss, label_smoothing=objective.label_smoothing)
    return replace(experiment, model=experiment.model.discriminator(), objective=objective, start_from=start_from)


def contrastive_of(directory: str) -> Experiment:
    """Train vectors of texts, starting from the encoder of a run (`contrastive:RUN`). `--data.task` is a task of `t2t.tasks.add_retrieval`."""
    experiment = from_run(directory)
    return replace(
        experiment,
        model=encoder_alone(experiment.model, where=f"{CONTRASTIVE}{directory}"),
        objective=Contrastive(),
        evaluation=replace(experiment.evaluation, tasks=()),
        start_from=replace(experiment.start_from, include=encoder_parameters(experiment.model)),
    )


def encoder_decoder_of(directories: str) -> Experiment:
    """Adapt a decoder to an encoder-decoder (`encoder-decoder:RUN`), or two runs, the first for the encoder (`encoder-decoder:RUN,RUN`).

    The task is `docs_prefix_lm`; inputs and targets each have half of the decoder's row. All parameters are trained.
    """
    names = directories.split(",")
    if len(names) > 2 or not all(names):
        raise UserError(
            f"{ENCODER_DECODER}{directories}: expected a run, or two with a comma between them: that of the encoder and that of the decoder."
            f" Nearest: {ENCODER_DECODER}{','.join([name for name in names if name][:2]) or 'RUN'}."
        )
    experiments = [from_run(name) for name in names]
    configs = []
    for name, experiment in zip(names, experiments, strict=True):
        if not isinstance(experiment.model, DecoderConfig):
            raise UserError(
                f"{ENCODER_DECODER}{directories}: the model of {name} is a {type(experiment.model).__name__}, not a DecoderConfig: only decoders are"
                f" adapted. Nearest: {FROM}{name}."
            )
        if experiment.adapter != Adapter():
            raise UserError(
                f"{ENCODER_DECODER}{directories}: {name} has an adapter, whose parameters are not those of a layer. Merge it into the model first:"
                f" t2t.load({name!r}).merge(DIR)."
            )
        configs.append(experiment.model)
    encoder, decoder = experiments[0].start_from, experiments[-1].start_from
    two = len(names) == 2
    old = experiments[-1]
    half = max((old.data.inputs_length + old.data.targets_length) // 2, 1)
    return replace(
        old,
        model=models.t5gemma.encoder_decoder_of(*configs),
        data=replace(
            old.data, task=PREFIX_LM, inputs_length=half, targets_length=half, loss_on_inputs=0.0, cached=None
        ),
        evaluation=replace(old.evaluation, tasks=(PREFIX_LM,)),
        trainable=Trainable(),
        start_from=StartFromDecoders(
            run=encoder.run,
            step=encoder.step,
            decoder_run=decoder.run if two else None,
            decoder_step=decoder.step if two else None,
        ),
    )


def distilled_of(directory: str) -> Experiment:
    """Train a student with half of the layers of a teacher, a run or a directory of Hugging Face transformers (`distilled:TEACHER`).

    It starts from every second layer, and learns the teacher's probabilities. `--data.task` is the task to learn.
    """
    from t2t.api.loading import as_run

    run = str(as_run(directory))
    return student_of(from_run(run), run, where=f"{DISTILLED}{directory}")


def preferences_of(directory: str) -> Experiment:
    """Train a run on pairs of answers with DPO; the run is also the reference (`preferences:RUN`). `--data.task` is a task of `t2t.tasks.add_preferences`."""
    experiment = from_run(directory)
    objective = Preference(reference=directory, reference_step=experiment.start_from.step)
    objective.check(experiment.model)
    return replace(experiment, objective=objective, evaluation=replace(experiment.evaluation, tasks=()))


_STARTED: Mapping[str, Callable[[str], Experiment]] = {
    FROM: from_run,
    DISCRIMINATOR: discriminator_of,
    CONTRASTIVE: contrastive_of,
    ENCODER_DECODER: encoder_decoder_of,
    DISTILLED: distilled_of,
    PREFERENCES: preferences_of,
}
"""Prefix -> function of the recipes that start from a run."""


def recipes() -> Mapping[str, Recipe]:
    """Return the built-in recipes by name: the quickstarts, and one for each preset whose training settings are published."""
    named: dict[str, Recipe] = {
        "t5:quickstart": quickstart_t5,
        "gpt:quickstart": quickstart_gpt,
        "bert:quickstart": quickstart_bert,
        "electra:quickstart": quickstart_electra,
    }
    for name in PUBLISHED:
        named[name] = _pretraining(name)
    return named


def is_own(name: str) -> bool:
    """Return whether the name refers to a user function, not to a built-in recipe. The function need not exist."""
    source, colon, _ = name.rpartition(":")
    started = name.startswith(tuple(_STARTED))
    return (
        bool(colon)
        and not started
        and source not in {known.partition(":")[0] for known in (*recipes(), *models.presets())}
    )


def find(name: str, *, assume: bool = False) -> Recipe:
    """Return a recipe by its name, or a user function: "module:function" or "file.py:function".

    A preset without published training settings has no recipe. With `assume`, which is for planning and measuring, it has one with common settings.

    Raises UserError with the nearest names if the recipe is unknown.
    """
    known = recipes()
    if name in known:
        return known[name]
    for prefix, function in _STARTED.items():
        if name.startswith(prefix):
            return update_wrapper(partial(function, name.removeprefix(prefix)), function)
    if name in models.presets():
        if assume:
            return update_wrapper(partial(assumed, name), assumed)
        raise UserError(
            f"preset {name} has no recipe: its training settings are not published. Write a recipe with t2t.models.preset({name!r}), or import its weights and use {FROM}RUN."
        )
    if not is_own(name):
        raise UserError(f"unknown recipe {name!r}.{nearest(name, known)}")
    recipe = function_of(name, option="recipe")

    def checked() -> Experiment:
        experiment = recipe()
        if not isinstance(experiment, Experiment):
            function = name.rpartition(":")[2]
            raise UserError(f"recipe {name}: {function}() returned {type(experiment).__name__}, not an Experiment")
        return experiment

    return update_wrapper(checked, recipe)
