"""`t2t export --format huggingface`: a run of any family, with any option that changes how it computes, comes out and in again."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from t2t.api.importing import parameters_alone
from t2t.checkpoint import Checkpoints
from t2t.data.config import Data
from t2t.errors import Failure
from t2t.export.family import canonical
from t2t.export.huggingface import opened
from t2t.launch.export import export
from t2t.models import electra
from t2t.models.families import exportable, family_of, left_behind
from t2t.nn.model import EXECUTION, PRECISION, RATES, START
from t2t.optim import AdamW
from t2t.sharding import MeshConfig
from t2t.train.experiment import ADJUSTABLE, Experiment
from t2t.train.run import CHECKPOINTS, RunRecord, open_run
from t2t.vocabularies import Bytes
from tests.models.tiny import config, params_of

SIZE = 272
SIZES = {"vocab_size": SIZE, "num_heads": 4}
FAMILIES = {
    "T5 1.0": config("t5-1.0", **SIZES),
    "T5 1.1": config("t5", **SIZES),
    "umT5": config("t5", relative_per_layer=True, **SIZES),
    "BERT": config("bert", **SIZES),
    "RoBERTa": config("bert", position_offset=2, **SIZES),
    "DistilBERT": config("bert", types=0, **SIZES),
    "ALBERT": config("bert", groups=1, embedding_size=8, **SIZES),
    "GPT-2": config("gpt", **SIZES),
    "LLaMA": config("llama", **SIZES),
    "Mistral": config("llama", window=4, **SIZES),
}
HOW = {
    "dtype": "bfloat16",
    "unroll": 2,
    "remat": "full",
    "attention": "chunked",
    "attention_block": 8,
    "quantization": "int8",
    "dropout": 0.2,
    "attention_dropout": 0.3,
    "embedding_std": 0.3,
    "position_std": 0.3,
}
WITHIN = {"mlp_dropout": True, "final_dropout": True, "init": "fan_in", "init_std": 0.5, "init_residual": True}


def with_choice(settings, name, value):
    """Return the configuration with a field changed, of the model or of all its stacks."""
    if name in HOW:
        return dataclasses.replace(settings, **{name: value})
    sides = [side for side in ("encoder", "decoder") if hasattr(settings, side)]
    changed = {
        side: dataclasses.replace(
            getattr(settings, side), **{name: value if value != getattr(getattr(settings, side), name) else False}
        )
        for side in sides
    }
    return dataclasses.replace(settings, **changed)


def saved(directory, settings, *, params=None, vocabulary=None, **options):
    """Write a run with a checkpoint of a model; return its parameters. params: those of the checkpoint, if they are not the random ones of the model."""
    params = params_of(settings)[1] if params is None else params
    vocabulary = Bytes(extra_ids=5) if vocabulary is None else vocabulary
    experiment = Experiment(model=settings, data=Data(task="none"), optimizer=AdamW(), **options)
    open_run(directory, RunRecord(recipe="test", experiment=experiment, vocabulary=vocabulary))
    with Checkpoints(directory / CHECKPOINTS) as checkpoints:
        checkpoints.save(0, parameters_alone(params), {}, {})
    return params


def test_every_choice_of_how_is_tried():
    assert {*EXECUTION, *PRECISION, *RATES, *START} == {*HOW, *WITHIN}


@pytest.mark.parametrize("family", FAMILIES)
def test_how_a_model_computes_never_decides_whether_a_family_has_it(family):
    plain = FAMILIES[family]
    expected = exportable(plain)
    for name, value in {**HOW, **WITHIN}.items():
        if name == "init" and plain.stacks[0].init == value:
            value = "normal"
        changed = with_choice(plain, name, value)
        assert changed != plain, name
        found = exportable(changed)
        assert found[0].name == expected[0].name, name
        assert found[2] == expected[2], name
        assert canonical(changed) == canonical(plain), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "how"),
    [
        ("T5 1.1", {"dtype": "bfloat16"}),
        ("LLaMA", {"dtype": "bfloat16", "unroll": 2, "remat": "dots"}),
        ("GPT-2", {"quantization": "int8", "attention": "chunked", "attention_block": 4}),
        ("BERT", {"unroll": 2, "dropout": 0.3, "dtype": "bfloat16"}),
        ("Mistral", {"unroll": 2, "dropout": 0.3}),
    ],
)
def test_a_run_comes_out_and_in_whatever_way_it_computed(family, how, tmp_path, capsys):
    params = saved(tmp_path / "run", dataclasses.replace(FAMILIES[family], **how))
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    assert "logits of the exported model differ by at most 0.0e+00" in capsys.readouterr().err
    with opened(tmp_path / "out", family_of) as source:
        jax.tree.map(np.testing.assert_array_equal, source.params(MeshConfig().build()), params)
        assert source.family.name in (family, "T5", "LLaMA")


@pytest.mark.parametrize(
    ("family", "how", "lost"),
    [
        ("LLaMA", {"dropout": 0.1, "attention_dropout": 0.0}, ["dropout 0.1"]),
        ("LLaMA", {"attention_dropout": 0.1}, []),
        ("BERT", {"dropout": 0.1, "attention_dropout": 0.2}, []),
        ("T5 1.1", {"dropout": 0.1, "attention_dropout": 0.2}, ["attention_dropout 0.2"]),
        ("GPT-2", {"quantization": "fp8"}, ["quantization fp8"]),
        ("GPT-2", {"dtype": "bfloat16", "remat": "full"}, []),
    ],
)
def test_what_config_json_has_no_place_for_is_told(family, how, lost):
    settings = dataclasses.replace(FAMILIES[family], **how)
    found, options, _ = exportable(settings)
    assert left_behind(settings, found, options) == lost


def test_the_command_tells_what_has_no_place(tmp_path, capsys):
    saved(tmp_path / "run", dataclasses.replace(FAMILIES["LLaMA"], dropout=0.1))
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    assert "note: config.json of LLaMA cannot store dropout 0.1:" in capsys.readouterr().err


def test_the_halves_of_an_electra_are_two_models(tmp_path, capsys):
    sizes = {"num_layers": 2, "d_model": 16, "num_heads": 2, "d_ff": 24, "divisor": 2, "max_length": 24}
    settings = electra.electra(**sizes, vocab_size=SIZE)
    params = saved(tmp_path / "run", settings, objective=electra.ReplacedTokenDetection())
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    assert capsys.readouterr().out.count("model.safetensors\n") == 2
    for name, part in settings.parts().items():
        with opened(tmp_path / "out" / name, family_of) as source:
            assert canonical(source.config) == canonical(part.config)
            found = source.params(MeshConfig().build())
        jax.tree.map(np.testing.assert_array_equal, found, part.params(params))


def test_an_export_that_computes_something_else_is_one_line_and_not_written(tmp_path, monkeypatch):
    saved(tmp_path / "run", FAMILIES["GPT-2"])
    calls = iter([np.zeros(3, np.float32), np.full(3, np.nan, np.float32)])
    monkeypatch.setattr("t2t.export.huggingface.short_logits", lambda model, params: next(calls))
    with pytest.raises(Failure, match=r"\(--out\): the logits of the exported model differ by nan") as caught:
        export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_with_other_ways_to_compute_and_no_other_dropout():
    for name in EXECUTION:
        assert f"model.{name}: 1 -> 2".startswith(ADJUSTABLE)
    for name in (*PRECISION, *RATES, *START):
        assert not f"model.{name}: 1 -> 2".startswith(ADJUSTABLE)


def test_t5_says_whether_its_head_is_scaled_apart_from_whether_it_is_tied(tmp_path):
    settings = dataclasses.replace(FAMILIES["T5 1.1"], scaled_head=True)
    assert not settings.tied
    saved(tmp_path / "run", settings)
    export(str(tmp_path / "run"), format="huggingface", out=str(tmp_path / "out"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["scale_decoder_outputs"] is True
    with opened(tmp_path / "out", family_of) as source:
        assert source.config.scaled_head
        assert not source.config.tied
