import dataclasses
import importlib
import inspect
import math
import typing
from typing import Annotated

import pytest

from t2t import models
from t2t.adapters import Adapter
from t2t.api.recipes import recipes
from t2t.checkpoint import CheckpointConfig
from t2t.config import from_json, to_json
from t2t.data import Data
from t2t.decode import Beam, Greedy, Sampling
from t2t.errors import UserError
from t2t.launch.bench.timing import Limits
from t2t.launch.bench.workload import Workload
from t2t.launch.grid.comparison import Comparison, small
from t2t.launch.grid.design import Cell, Grid, Measure, TrainedVocabulary
from t2t.launch.grid.mixer_models import Choices
from t2t.launch.grid.mixers import Mixers, Part
from t2t.launch.grid.texts import CharacterText, RecallText
from t2t.launch.launchers.kubernetes import Kubernetes
from t2t.launch.launchers.local import Local
from t2t.launch.launchers.slurm import Slurm
from t2t.launch.launchers.tpu_vm import TpuVm
from t2t.launch.main import COMMANDS
from t2t.launch.plan import Words
from t2t.limits import Configuration, OutOfLimits, Range, Seed, check_arguments, problem
from t2t.models.config import LayerOptions
from t2t.models.electra import ReplacedTokenDetection
from t2t.nn.attention.config import AttentionConfig
from t2t.nn.attention.latent import Latent, LatentAttentionConfig
from t2t.nn.attention.merged import MergedAttentionConfig
from t2t.nn.attention.transient_global import TransientGlobalConfig
from t2t.nn.convolution import ConvolutionConfig
from t2t.nn.disentangled import Disentangled
from t2t.nn.mlp import MLPConfig
from t2t.nn.moe.layer import MoEConfig
from t2t.nn.moe.router import Router
from t2t.nn.recurrent.channel_mixing import ChannelMixingConfig
from t2t.nn.recurrent.gated_delta_net import GatedDeltaNetConfig
from t2t.nn.recurrent.gated_linear_attention import GatedLinearAttentionConfig
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.nn.recurrent.retention import RetentionConfig
from t2t.nn.recurrent.rwkv4 import RWKV4Config
from t2t.nn.recurrent.rwkv7 import RWKV7Config
from t2t.nn.recurrent.time_steps import TimeSteps
from t2t.nn.rotary import Rotary
from t2t.nn.sparse import Sparse
from t2t.objectives import CrossEntropy
from t2t.objectives.contrastive import Contrastive
from t2t.objectives.distillation import Distillation
from t2t.objectives.preference import Preference
from t2t.optim import (
    Adafactor,
    AdamW,
    Constant,
    Cosine,
    Ema,
    InverseSquareRoot,
    Linear,
    Muon,
    Optax,
    StableAdamW,
    WarmupStableDecay,
)
from t2t.optim.trainable import Trainable
from t2t.plan.topology import Topology
from t2t.sharding import MeshConfig
from t2t.tasks.mixing import ProportionalRate
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, StartFrom, StartFromDecoders, StartFromLayers
from t2t.train.few_shot import FewShot
from t2t.train.guard import Guard
from t2t.vocabularies import Bytes, Characters, Marian, SentencePiece, Tokenizer, WordPiece

EXPERIMENT = recipes()["t5:quickstart"]()
DECODER, ENCODER, ELECTRA = (recipes()[f"{name}:quickstart"]().model for name in ("gpt", "bert", "electra"))
COMPARISON: Comparison = small()
CONFIGURATIONS = [
    *(EXPERIMENT, EXPERIMENT.model, EXPERIMENT.model.encoder, DECODER, ENCODER, ELECTRA, Rotary()),
    *(
        Data(task="some"),
        CrossEntropy(),
        ReplacedTokenDetection(),
        Contrastive(),
        Distillation(teacher="some"),
        Preference(reference="some"),
        Ema(decay=0.999),
        MeshConfig(),
        CheckpointConfig(),
        Evaluation(),
        FewShot(),
        Guard(),
        StartFrom(),
        StartFromDecoders(run="some"),
        StartFromLayers(run="some"),
        Trainable(),
    ),
    *(AttentionConfig(num_heads=2, head_dim=8), MLPConfig(inner=16), LayerOptions()),
    *(MambaConfig(inner=16, dt_rank=1), Mamba2Config(num_heads=2), TimeSteps()),
    *(RetentionConfig(num_heads=2), GatedLinearAttentionConfig(key_dim=8, value_dim=16)),
    GatedDeltaNetConfig(num_heads=4, num_key_heads=2),
    *(MoEConfig(num_experts=4, inner=16, capacity=1.25, limit=7.0), Router(), Sparse(), Latent()),
    *(RWKV4Config(), ChannelMixingConfig(inner=16)),
    *(RWKV4Config(), RWKV7Config(), ChannelMixingConfig(inner=16)),
    LatentAttentionConfig(num_heads=2, head_dim=8, positions="rotary", latent=Latent(rank=4)),
    *(MergedAttentionConfig(num_heads=2, head_dim=8), ConvolutionConfig(), Disentangled(), Adapter(rank=4, alpha=8.0)),
    TransientGlobalConfig(num_heads=2, head_dim=8, positions="relative", scaled=False, window=6, global_block=4),
    *(Greedy(), Sampling(), Beam(size=8)),
    *(AdamW(), StableAdamW(), Muon(), Adafactor(), Optax(name="optax.lion", arguments={"b1": 0.5, "nesterov": True})),
    *(Constant(), InverseSquareRoot(), Linear(steps=1000), Cosine(steps=1000)),
    WarmupStableDecay(peak=1e-3, steps=1000, decay_steps=100),
    *(
        Bytes(),
        Characters(characters="ab"),
        SentencePiece(path="a.model"),
        WordPiece(path="a.txt"),
        Tokenizer(path="a.json", eos="</s>"),
        Marian(path="vocab.json"),
    ),
    *(Local(), Slurm(), Kubernetes(), TpuVm()),
    *(COMPARISON, Measure(name="loss", about="a loss", chance=0.5), TrainedVocabulary(task="some", size=300)),
    Grid(cells=(Cell(architecture="a", objective="b", experiment=EXPERIMENT),), measures=(), seeds=(0, 1)),
    *(Mixers(), Part(), Choices(), CharacterText(task="some", file="a.txt", length=8)),
    RecallText(task="some", pairs=4, length=32),
    *(Limits(), Workload(recipe="t5:quickstart", experiment=EXPERIMENT, limits=Limits())),
    Topology(kind="v5e", shape=(4, 4)),
    Words(recipe="a", topology=Topology(kind="v5e", shape=(4, 4)), search=False, compile=1, json=None, vocabulary=None),
    ProportionalRate(),
]
MADE = {type(config): config for config in CONFIGURATIONS}


def concrete(cls):
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("t2t.") and not inspect.isabstract(sub) and dataclasses.is_dataclass(sub):
            yield sub
        yield from concrete(sub)


def numbers(hint, limited=False):
    """Yield, for each int or float in a type, whether it has a range."""
    if typing.get_origin(hint) is Annotated:
        base, *rest = typing.get_args(hint)
        yield from numbers(base, any(isinstance(one, Range) for one in rest))
    elif typing.get_args(hint) and typing.get_origin(hint) is not typing.Literal:
        for one in typing.get_args(hint):
            yield from numbers(one)
    elif hint in (int, float):
        yield limited


def test_every_configuration_class_is_tried_here():
    tried = {*MADE, *(base for cls in MADE for base in cls.__mro__)}
    assert not {cls.__name__ for cls in concrete(Configuration) if cls not in tried}


def parts(config):
    yield config
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for item in value if isinstance(value, tuple) else [value]:
            if dataclasses.is_dataclass(item):
                yield from parts(item)


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda config: type(config).__name__)
def test_all_parts_of_a_configuration_check_their_fields(config):
    assert all(isinstance(part, Configuration) for part in parts(config) if not isinstance(part, Cell))


@pytest.mark.parametrize("cls", MADE, ids=lambda cls: cls.__name__)
def test_every_number_has_a_range(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    assert not [name for name in names if not all(numbers(hints[name]))]


CASES = [
    (config, field.name)
    for config in MADE.values()
    for field in dataclasses.fields(config)
    if any(numbers(typing.get_type_hints(type(config), include_extras=True)[field.name]))
]


@pytest.mark.parametrize(("config", "name"), CASES, ids=lambda it: it if isinstance(it, str) else type(it).__name__)
def test_what_is_no_sensible_number_is_refused(config, name):
    hint = typing.get_type_hints(type(config), include_extras=True)[name]

    def with_value(value):
        held = getattr(config, name)
        if isinstance(held, tuple):
            value = (*held[:-1], value)
        elif isinstance(held, dict):
            value = {**held, "b1": value}
        return value

    for value in (math.nan, math.inf, -math.inf, 1e39, 10**30, 10**400, -(10**30)):
        with pytest.raises(OutOfLimits, match=name) as caught:
            dataclasses.replace(config, **{name: with_value(value)})
        assert "\n" not in str(caught.value)
        assert "Nearest: " in str(caught.value)
    for value in (-1, 0, 1, 0.5):  # in the range or refused, nothing else
        try:
            dataclasses.replace(config, **{name: with_value(value)})
        except OutOfLimits:
            assert problem(with_value(value), hint)
        except UserError:  # it does not go with another field
            assert not problem(with_value(value), hint)
        else:
            assert not problem(with_value(value), hint)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_number_of_a_command_has_a_range(name):
    function = getattr(importlib.import_module(COMMANDS[name].module), COMMANDS[name].function)
    hints = typing.get_type_hints(function, include_extras=True)
    assert not [it for it in inspect.signature(function).parameters if not all(numbers(hints[it]))]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (-1, "seed -1 (--seed) is not a whole number from 0 to 4294967295. Nearest: 0."),
        (2**32, "seed 4294967296 (--seed) is not a whole number from 0 to 4294967295. Nearest: 4294967295."),
        (0.5, "seed 0.5 (--seed) is not a whole number from 0 to 4294967295. Nearest: 0."),
        ("3", "seed '3' (--seed) is not a whole number from 0 to 4294967295. Nearest: 0."),
        (True, "seed True (--seed) is not a whole number from 0 to 4294967295. Nearest: 0."),
    ],
)
def test_an_error_names_option_value_range_and_nearest(value, told):
    def command(*, seed: Seed = 0) -> None: ...

    command.__annotations__["seed"] = Seed
    with pytest.raises(OutOfLimits) as caught:
        check_arguments(command, {"seed": value})
    assert str(caught.value) == told


def test_the_nearest_of_a_number_below_is_one_that_makes_sense():
    with pytest.raises(OutOfLimits, match=r"peak -1.* Nearest: 0.001"):
        Constant(peak=-1.0)
    with pytest.raises(OutOfLimits, match=r"b1 nan .* Nearest: 0.9"):
        AdamW(b1=math.nan)
    with pytest.raises(OutOfLimits, match=r"data -2 .* Nearest: -1"):
        MeshConfig(data=-2)
    with pytest.raises(OutOfLimits, match=r"step_seconds 0.001 .* from 1 to .*, or 0. Nearest: 0"):
        Guard(step_seconds=0.001)


def test_a_file_with_a_number_out_of_range_names_its_place():
    data = to_json(EXPERIMENT)
    data["model"]["encoder"]["kv_heads"] = 0
    with pytest.raises(
        UserError, match=r"num_kv_heads 0 \(run\.json\.model\.encoder\.num_kv_heads\) is not .* Nearest: 1"
    ):
        from_json(data, where="run.json")
    data = to_json(EXPERIMENT)
    data["data"]["targets_length"] = 10**9
    with pytest.raises(UserError, match=r"targets_length 1000000000 \(run\.json\.data\.targets_length\)"):
        from_json(data, where="run.json")
    data = to_json(EXPERIMENT)
    data["model"]["encoder"]["heads"] = 3
    with pytest.raises(UserError, match=r"run\.json\.model\.encoder: model\.num_heads is 3"):
        from_json(data, where="run.json")


def test_relations_between_fields():
    stack = EXPERIMENT.model.encoder
    with pytest.raises(UserError, match=r"model\.encoder\.buckets is 31; .* Nearest: 32"):
        dataclasses.replace(EXPERIMENT.model, encoder=dataclasses.replace(stack, buckets=31))
    dataclasses.replace(EXPERIMENT.model, decoder=dataclasses.replace(EXPERIMENT.model.decoder, buckets=31))
    with pytest.raises(UserError, match=r"model\.generator\.buckets is 31"):
        dataclasses.replace(ELECTRA, generator=dataclasses.replace(ELECTRA.generator, buckets=31))
    with pytest.raises(UserError, match=r"model\.unroll is 100; the deepest stack .* has 2 layers\. Nearest: 2"):
        dataclasses.replace(EXPERIMENT.model, unroll=100)
    with pytest.raises(UserError, match=r"model\.num_kv_heads is 3, which does not divide"):
        dataclasses.replace(stack, num_kv_heads=3)
    with pytest.raises(UserError, match=r"return_n 5 .* Nearest: 4"):
        Beam(size=4, return_n=5)


def test_no_examples_to_evaluate_on_means_all():
    assert Evaluation(examples=0) == Evaluation(examples=None)


def test_presets_are_within_all_limits():
    for name, preset in models.presets().items():
        assert isinstance(preset.config(), Configuration), name
    assert all(isinstance(recipe(), Experiment) for recipe in recipes().values())
