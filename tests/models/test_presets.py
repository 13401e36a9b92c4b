"""Presets: published parameter counts, golden tables, overrides, and what is refused. All abstract."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from t2t.config import dumps, loads
from t2t.errors import UserError
from t2t.models import active_count, bert, count, gpt, llama, parameter_table, preset, presets, t5, table_text
from t2t.nn.rotary import Rotary
from tests.models.golden_tables import FOLDER, file_name

NAMES = sorted(presets())
LOGICAL = {"vocab", "embed", "mlp", "experts", "heads", "kv", "layers", "positions", "buckets", "types", None}


def test_presets_are_those_promised():
    sizes = {
        "t5": [
            "1.0-small",
            "1.0-base",
            "1.0-large",
            "1.0-3b",
            "1.0-11b",
            "1.1-small",
            "1.1-base",
            "1.1-large",
            "1.1-xl",
            "1.1-xxl",
            "ul2-20b",
        ],
        "longt5": ["local-base", "local-large", "tglobal-base", "tglobal-large", "tglobal-xl"],
        "switch": [*(f"base-{experts}" for experts in (8, 16, 32, 64, 128, 256)), "large-128", "c-2048"],
        "gpt": [
            "1",
            "2-small",
            "2-medium",
            "2-large",
            "2-xl",
            *(f"3-{size}" for size in ("125m", "350m", "760m", "1.3b", "2.7b", "6.7b", "13b", "175b")),
        ],
        "bart": ["base", "large"],
        "bert": ["base", "large"],
        "bitnet": ["b1.58-2b-4t"],
        "electra": ["small", "base", "large"],
        "modernbert": ["base", "large"],
        "eurobert": ["210m", "610m", "2.1b"],
        "mpnet": ["base"],
        "roberta": ["base", "large", "xlm-base", "xlm-large", "xlm-xl", "xlm-xxl"],
        "neobert": ["250m"],
        "deberta": ["v2-xlarge", "v3-xsmall", "v3-small", "v3-base", "v3-large"],
        "llama": [
            *("2-7b", "3-8b", "3-70b", "3.1-8b", "3.1-70b", "3.2-1b", "3.2-3b", "3.3-70b"),
            *("smollm2-135m", "smollm2-360m", "smollm2-1.7b", "mistral-7b"),
        ],
        "marian": ["opus-mt-en-de"],
        "mbart": ["large-cc25", "large-50"],
        "pegasus": ["large"],
        "smollm3": ["3b"],
        "qwen": [
            *(f"2.5-{size}" for size in ("0.5b", "1.5b", "3b", "7b", "14b", "32b", "72b")),
            *(f"3-{size}" for size in ("0.6b", "1.7b", "4b", "8b", "14b", "32b", "30b-a3b", "235b-a22b")),
            "next-80b-a3b",
        ],
        "gemma": ["2-2b", "2-9b", "2-27b", "3-270m", "3-1b", "3-4b", "3-12b", "3-27b"],
        "t5gemma": ["2b-2b", "9b-2b", "9b-9b", "small", "base", "large", "ml", "xl"],
        "t5gemma2": ["270m-270m", "1b-1b", "4b-4b"],
        "mixtral": ["8x7b", "8x22b"],
        "deepseek": ["v3"],
        "mamba": [
            *("130m", "370m", "790m", "1.4b", "2.8b"),
            *("2-130m", "2-370m", "2-780m", "2-1.3b", "2-2.7b", "2-codestral-7b"),
        ],
        "retnet": ["1.3b", "2.7b", "6.7b"],
        "gptoss": ["20b", "120b"],
        "olmo": ["2-1b", "2-7b", "2-13b", "2-32b", "3-7b", "3-32b"],
        "phi": ["3-mini", "3-medium", "4", "4-mini"],
        "neox": [
            *(f"pythia-{size}" for size in ("70m", "160m", "410m", "1b", "1.4b", "2.8b", "6.9b", "12b")),
            "20b",
        ],
        "rwkv": ["4-169m", "4-430m", "4-1.5b", "4-3b", "4-7b", "4-14b", "7-0.1b", "7-0.4b", "7-1.5b", "7-2.9b"],
    }
    assert sorted(f"{family}:{size}" for family, all_sizes in sizes.items() for size in all_sizes) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_count_is_the_published_one(name):
    own = presets()[name]
    number = count(own.config())
    assert own.agrees(number)
    assert not own.agrees(number + own.rounding)
    if own.rounding == 1:
        assert number == own.published + sum(own.besides.values())


def test_counts_of_models_known_to_the_last_parameter():
    assert count(preset("t5:1.1-xxl")) == 11_135_332_352
    assert count(preset("t5:1.0-11b")) == 11_307_321_344
    assert count(preset("gpt:2-xl")) == 1_557_611_200
    assert count(preset("gpt:1")) == 116_534_784
    assert count(preset("bert:base")) == 109_514_298
    assert count(preset("deberta:v3-base", head_transform=False, head_bias=False)) == 183_831_552
    assert count(preset("qwen:2.5-0.5b")) == 494_032_768
    assert count(preset("neobert:250m")) == 245_136_954
    assert count(preset("gpt:3-175b")) == 174_604_259_328


def test_parameters_that_process_one_token_are_those_published():
    mixtures = {name: preset for name, preset in presets().items() if preset.active is not None}
    names = ["deepseek:v3", "gptoss:120b", "gptoss:20b", "mixtral:8x22b", "mixtral:8x7b"]
    names += ["qwen:3-235b-a22b", "qwen:3-30b-a3b", "qwen:next-80b-a3b"]
    assert sorted(mixtures) == names
    for name, one in mixtures.items():
        counted = active_count(one.config())
        if name == "qwen:next-80b-a3b":  # its model card counts no embeddings, and rounds to billions
            counted = round(counted - 2 * 151_936 * 2048, -9)
        assert counted == pytest.approx(one.active, rel=0.02)
    assert active_count(preset("mixtral:8x7b")) == 12_879_925_248
    assert active_count(preset("qwen:next-80b-a3b")) == 3_874_929_408
    assert active_count(preset("gpt:2-small")) == count(preset("gpt:2-small"))


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_the_golden_one(name):
    golden = (FOLDER / file_name(name)).read_text(encoding="utf-8")
    assert table_text(preset(name)) == golden, "if this is meant: python -m tests.models.golden_tables"


def test_there_is_no_golden_file_too_many():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(map(file_name, NAMES))


@pytest.mark.parametrize("name", NAMES)
def test_every_dimension_has_a_logical_axis_and_vectors_no_decay(name):
    for row in parameter_table(preset(name)):
        assert len(row.axes) == len(row.shape), row
        assert set(row.axes) <= LOGICAL, row
        assert ("layers" in row.path.split("/")) == (row.axes[0] == "layers"), row
        named = [axis for axis in row.axes if axis is not None]
        assert len(named) == len(set(named)), row
        kernel = row.path.endswith("/kernel") or re.search(r"(token|type)/table$|/moe/(?!\w*bias)\w+$", row.path)
        assert row.decay == bool(kernel), row


@pytest.mark.parametrize("name", ["t5:1.1-small", "gpt:2-small", "bert:base"])
def test_overrides_reach_the_model_and_its_stacks(name):
    changes = {"vocab_size": 99, "dropout": 0.25, "dtype": "bfloat16", "remat": "full", "attention": "chunked"}
    config = preset(name, num_layers=3, **changes)
    assert {field: getattr(config, field) for field in changes} == changes
    assert {stack.num_layers for stack in config.stacks} == {3}
    assert loads(dumps(config)) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("t5:1.1-smal"), r"'t5:1.1-smal'.*Nearest: t5:1.1-small"),
        (lambda: preset("bert:base", layer=3), r"'layer'.*Nearest: num_layers"),
        (lambda: preset("gpt:2-xl", dtype="bfloat"), r"'bfloat' \(model.dtype\).*Nearest: bfloat16"),
        (lambda: preset("gpt:2-xl", remat="dot"), r"'dot' \(model.remat\).*Nearest: dots"),
        (lambda: preset("gpt:2-xl", mask="casual"), r"'casual' \(model.mask\).*Nearest: causal"),
        (lambda: preset("gpt:2-xl", dropout=1.0), r"dropout 1\.0 .*Nearest: 0.999"),
        (lambda: gpt.gpt(num_layers=1, d_model=30, num_heads=4), r"num_heads is 4.*d_model = 30.*Nearest: (3|5)"),
        (lambda: gpt.gpt(num_layers=1, d_model=32, num_heads=4, num_kv_heads=3), r"kv_heads is 3"),
        (lambda: gpt.gpt(num_layers=0, d_model=32, num_heads=4), r"layers 0 .* whole number from 1"),
        (lambda: t5.t5(num_layers=1, d_model=8, num_heads=2, d_ff=8, buckets=2), r"buckets 2 .*Nearest: 4"),
        (lambda: t5.t5(num_layers=1, d_model=8, num_heads=2, d_ff=8, version="1.2"), r"'1.2'.*Nearest: 1"),
        (lambda: preset("gpt:2-xl", attention="cudnn"), r"'cudnn' \(--model.attention\) has no dropout"),
        (lambda: preset("gpt:2-xl", attention="cudnn", dropout=0.0), r"computes in bfloat16 or float16"),
        (
            lambda: preset("t5:1.1-xl", attention="cudnn", dtype="bfloat16"),
            r"gradient of a bias \(relative positions\)",
        ),
        (lambda: preset("t5:1.1-xl", attention="splash"), r"no bias \(relative positions\). Nearest: flash, chunked"),
        (
            lambda: preset("gpt:3-125m", attention="splash", attention_block=64),
            r"multiple of 128, and --model.attention-block is 64",
        ),
        (lambda: preset("gpt:3-125m", attention="flash", mask="prefix"), r"no prefix .*Nearest: splash"),
        (
            lambda: llama.llama(
                num_layers=1, d_model=8, num_heads=2, d_ff=8, window=4, mask="prefix", attention="splash"
            ),
            r"window of 4 .*with a prefix mask",
        ),
        (lambda: bert.bert(num_layers=1, d_model=8, num_heads=2, activation="gel"), r"'gel'.*Nearest: gelu"),
        (
            lambda: bert.bert(num_layers=1, d_model=8, num_heads=2, parallel=True),
            r"parallel is True, and model.norm_place is 'post'.*Nearest: pre",
        ),
        (lambda: bert.bert(num_layers=4, d_model=8, num_heads=2, groups=3), r"groups is 3, which does not divide"),
        (
            lambda: gpt.gpt(num_layers=1, d_model=8, num_heads=2, embedding_size=4).build(),
            r"cannot come from embeddings of width 4",
        ),
        (
            lambda: llama.llama(num_layers=1, d_model=6, num_heads=2, d_ff=8),
            r"head_dim is 3; rotary positions need an even one",
        ),
        (
            lambda: llama.llama(num_layers=1, d_model=8, num_heads=2, d_ff=8, rotary=Rotary(scaling="lama3")),
            r"'lama3'.*Nearest: llama3",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_limits_are_those_of_the_learned_positions():
    assert preset("t5:1.1-small").max_length is None
    assert preset("gpt:2-small").max_length == 1024
    assert preset("bert:base").max_length == 512
    assert preset("llama:3-8b").max_length is None


def test_cudnn_is_allowed_where_it_can_serve():
    config = preset("gpt:3-125m", attention="cudnn", dtype="bfloat16", dropout=0.1, attention_dropout=0.0)
    assert config.attention == "cudnn"


def test_importing_models_loads_no_tensorflow():
    program = (
        "import sys, t2t.models, t2t.nn.mixers\n"
        "t2t.models.preset('t5:1.1-small').build()\n"
        "print([m for m in ('tensorflow', 'seqio', 'tensorflow_datasets') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == "[]"
