"""Recipes: functions that return an experiment. The name before the colon is the model's family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, update_wrapper

from t2t import models
from t2t.api.published import PUBLISHED, Pretraining
from t2t.api.user_code.imports import function_of
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.errors import UserError, nearest
from t2t.models import TransformerConfig
from t2t.models.electra import ElectraConfig, ReplacedTokenDetection
from t2t.nn.attention import Backend
from t2t.nn.model import ModelConfig
from t2t.objectives import CrossEntropy, Objective
from t2t.optim import AdamW, Cosine
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, StartFrom

Recipe = Callable[[], Experiment]

BYTES = 384
"""Rows of a byte model's embedding: 259 bytes and specials and 100 sentinels, rounded up to a multiple of 128."""

FROM = "from:"
"""Before a run's directory: the recipe that goes on from it."""

DISCRIMINATOR = "discriminator:"
"""Before the directory of an ELECTRA's run: the recipe that goes on with its discriminator alone."""

QUICK = 1000
"""Steps of the quickstarts; BERT, which learns from 15% of the tokens only, takes more."""


def quickstart_t5() -> Experiment:
    """A small T5 on bytes: span corruption over documentation, and tasks with prefixes. Minutes on a laptop."""
    return Experiment(
        model=models.t5.t5(num_layers=2, d_model=128, num_heads=4, d_ff=256, vocab_size=BYTES, version="1.1"),
        data=Data(task="quickstart", inputs_length=128, targets_length=64, batch_size=24, shards=4),
        # With a peak of 3e-3 a task of two classes stays at guessing for most of the steps; with 1e-3 copying is learnt too late.
        optimizer=AdamW(schedule=Cosine(peak=2e-3, warmup=100, steps=QUICK, final=0.05), b2=0.98, weight_decay=0.01),
        steps=QUICK,
        log_every=50,
        objective=CrossEntropy(z_loss=1e-4),
        checkpoint=CheckpointConfig(every=500),
        evaluation=Evaluation(tasks=("quickstart",), every=500, examples=100),
    )


def quickstart_gpt() -> Experiment:
    """A small GPT on bytes: causal language modelling over documentation, and tasks with prefixes. Minutes on a laptop."""
    return Experiment(
        model=models.gpt.gpt(num_layers=4, d_model=128, num_heads=4, vocab_size=BYTES, max_length=128, dropout=0.0),
        data=Data(task="quickstart_decoder", inputs_length=48, targets_length=80, batch_size=24, shards=4),
        optimizer=AdamW(schedule=Cosine(peak=3e-3, warmup=100, steps=QUICK, final=0.05), b2=0.98, weight_decay=0.01),
        steps=QUICK,
        log_every=50,
        checkpoint=CheckpointConfig(every=500),
        evaluation=Evaluation(tasks=("quickstart_decoder",), every=500, examples=100),
    )


def quickstart_bert() -> Experiment:
    """A small BERT on bytes: masked language modelling over documentation, and tasks answered in masks. Minutes on a laptop."""
    steps = 1500
    return Experiment(
        # Norms before each layer and relative positions: among bytes, it is the neighbours that tell most.
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
    """A small ELECTRA on bytes: a generator fills masks in documentation, an encoder finds what it replaced. Minutes on a laptop."""
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
    """Pretrain a preset on C4 with the published settings (`t2t.api.published`): T5 by span corruption, GPT and LLaMA as causal language models, BERT by masked language modelling, ELECTRA by finding replaced tokens."""
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
    if family == "electra":  # the large model's task masks 25% of the tokens (Clark et al. 2020, table 6)
        return ReplacedTokenDetection(masked_share=0.25 if size == "large" else 0.15)
    return CrossEntropy(z_loss=1e-4 if family == "t5" else 0.0)


def _data(preset: str, published: Pretraining) -> Data:
    family, _, size = preset.partition(":")
    length, rows = published.length, published.rows
    match family:
        case (
            "t5"
        ):  # 15% of 512 tokens in spans of 3, and a sentinel a span: 114 targets (Raffel et al. 2020, section 3.1.4).
            return Data(task="c4_span_corruption", inputs_length=length, targets_length=114, batch_size=rows)
        case "bert":
            task = "c4_masked_lm"
        case "electra":  # The large model's task masks 25% of the tokens (Clark et al. 2020, table 6).
            task = "c4_electra_25" if size == "large" else "c4_electra"
        case _:
            return Data(
                task="c4_causal_lm", inputs_length=1, targets_length=length - 1, batch_size=rows, loss_on_inputs=1.0
            )
    return Data(task=task, inputs_length=length, targets_length=length, batch_size=rows)


def _pretraining(preset: str) -> Recipe:
    """Return the recipe of a preset; its docstring, which `--help` shows, tells what its paper tells."""
    recipe = update_wrapper(partial(pretrain, preset), pretrain)
    published = PUBLISHED[preset]
    recipe.__doc__ = f"Pretrain {preset} on C4 with the published settings. Source: {published.source}. Our choice: {published.ours}."
    return recipe


LARGE, HUGE = 1_000_000_000, 5_000_000_000
"""Parameters from which a model's state is divided over all devices, and from which its matrices are too. See docs/planning.md."""


def mesh_for(config: ModelConfig) -> MeshConfig:
    """Return the mesh that planning found good for a model of that size, on as many devices as there are.

    Small ones are replicated; large ones divided by `fsdp`, which sends the parameters twice and their gradients once a step; of huge ones that is
    so much that their matrices are divided over eight neighbours besides.
    """
    size = models.count(config)  # type: ignore[arg-type]
    if size < LARGE:
        return MeshConfig()
    return MeshConfig(data=1, fsdp=-1, tensor=8 if size >= HUGE else 1)


def for_accelerators(config: TransformerConfig, length: int) -> TransformerConfig:
    """Return a preset as it is trained on rows of `length` tokens: what has a billion parameters runs on accelerators alone, and without these does not fit on them.

    bfloat16 and full rematerialisation; where rows are long, attention a block of queries at a time. The vocabulary is rounded up to a multiple of
    128, so that it divides over any mesh: GPT's 50,257 words divide over none.
    """
    if models.count(config) < LARGE:
        return config
    attention: Backend = "chunked" if length >= 2048 else config.attention
    rows = -(-config.vocab_size // 128) * 128
    return replace(config, vocab_size=rows, dtype="bfloat16", remat="full", attention=attention)


def from_run(directory: str) -> Experiment:
    """Go on with another run's model, its parameters and its vocabulary, under this run's own data and optimizer (`from:RUN`)."""
    from t2t.api.user_code.loading import load_run

    run = load_run(directory)
    old = run.experiment
    return replace(
        old,
        data=replace(old.data, vocabulary=run.vocabulary),
        start_from=StartFrom(run=directory, step=run.step),
    )


def discriminator_of(directory: str) -> Experiment:
    """Go on with an ELECTRA's discriminator alone, as an encoder whose masked-LM head is new, under this run's own data and optimizer (`discriminator:RUN`)."""
    begun = from_run(directory)
    if not isinstance(begun.model, ElectraConfig):
        raise UserError(
            f"{DISCRIMINATOR}{directory}: the model of that run, a {type(begun.model).__name__}, is no ELECTRA and has no discriminator. Nearest: {FROM}{directory}."
        )
    taken = replace(begun.start_from, include=("embeddings/**", "encoder/**"))
    objective = begun.objective
    if isinstance(objective, ReplacedTokenDetection):
        objective = CrossEntropy(z_loss=objective.z_loss, label_smoothing=objective.label_smoothing)
    return replace(begun, model=begun.model.discriminator(), objective=objective, start_from=taken)


def recipes() -> Mapping[str, Recipe]:
    """Return the recipes that come with the stack, by name: the quickstarts, and one for each preset."""
    named: dict[str, Recipe] = {
        "t5:quickstart": quickstart_t5,
        "gpt:quickstart": quickstart_gpt,
        "bert:quickstart": quickstart_bert,
        "electra:quickstart": quickstart_electra,
    }
    for name in models.presets():
        named[name] = _pretraining(name)
    return named


def is_own(name: str) -> bool:
    """Whether the name is of a function of the user's rather than of a recipe that comes with the stack, there or not."""
    source, colon, _ = name.rpartition(":")
    started = name.startswith((FROM, DISCRIMINATOR))
    return bool(colon) and not started and source not in {known.partition(":")[0] for known in recipes()}


def find(name: str) -> Recipe:
    """Return a recipe by its name, or a function of the user's: "module:function" or "file.py:function".

    Raises UserError, with the nearest names, where there is none.
    """
    known = recipes()
    if name in known:
        return known[name]
    if name.startswith(FROM):
        return update_wrapper(partial(from_run, name.removeprefix(FROM)), from_run)
    if name.startswith(DISCRIMINATOR):
        return update_wrapper(partial(discriminator_of, name.removeprefix(DISCRIMINATOR)), discriminator_of)
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
