"""Names of version 0.1.0 lead to what they are called now."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest

from t2t import former_names, models
from t2t.api.overrides import overridden
from t2t.api.recipes import find
from t2t.config import from_json, to_json
from t2t.errors import UserError
from t2t.launch.parse import override
from t2t.models.config import LayerOptions, StackConfig
from t2t.objectives import CrossEntropy
from t2t.train.run import SavedRun
from tests.models.tiny import config
from tests.train.test_step import batch


def test_learned_positions_with_a_relative_bias_are_read_as_they_are_stored_now():
    both = StackConfig(num_layers=1, d_model=8, num_heads=2, d_ff=8, positions="relative", learned_positions=True)
    stored = {name: value for name, value in to_json(both).items() if name != "learned_positions"}
    assert from_json({**stored, "positions": "learned", "relative_bias": True}) == both
    learned = dataclasses.replace(both, positions="learned", learned_positions=False)
    assert from_json({**stored, "positions": "learned", "relative_bias": False}) == learned


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in former_names.NAMES.items() for n in names])
def test_former_names_are_found_and_no_others(module, name):
    found = getattr(importlib.import_module(module), name)
    place, _, attribute = former_names.NAMES[module][name].rpartition(".")
    assert found is getattr(importlib.import_module(place), attribute)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = importlib.import_module(module).Nothing


def test_code_of_the_first_version_computes_the_same():
    from t2t.losses import Loss  # type: ignore[attr-defined]
    from t2t.train.run import Run  # type: ignore[attr-defined]

    assert Run is SavedRun
    model = config("gpt").build()
    params, rows = model.init(jax.random.key(0)), batch("decoder")
    now = CrossEntropy(z_loss=1e-2).loss(model, params, rows)
    np.testing.assert_array_equal(model.losses(params, rows, Loss(z_loss=1e-2)).objective, now.objective)


SIZES = {"layers": 2, "embed": 16, "heads": 4, "mlp": 24, "vocab_size": 384}


def test_sizes_under_their_former_names_are_the_same_model():
    now = models.t5.t5(
        num_layers=2, d_model=16, num_heads=4, d_ff=24, vocab_size=384, num_decoder_layers=1, num_kv_heads=2
    )
    assert models.t5.t5(**SIZES, decoder_layers=1, kv_heads=2) == now
    assert models.gpt.gpt2("small", embed=384) == models.gpt.gpt2("small", d_model=384)
    stack = StackConfig(layers=2, embed=16, heads=4, mlp=24, pattern=(LayerOptions(kv_heads=1, mlp=8),))
    assert stack == StackConfig(
        num_layers=2, d_model=16, num_heads=4, d_ff=24, pattern=(LayerOptions(num_kv_heads=1, d_ff=8),)
    )
    assert (stack.layers, stack.embed, stack.heads, stack.kv_heads, stack.mlp) == (2, 16, 4, None, 24)
    assert dataclasses.replace(stack, embed=32) == dataclasses.replace(stack, d_model=32)


def test_a_name_that_never_was_is_refused():
    with pytest.raises(AttributeError, match=r"'StackConfig' object has no attribute 'depth'"):
        _ = models.gpt.gpt(num_layers=1, d_model=8, num_heads=2).decoder.depth
    with pytest.raises(TypeError, match="depth"):
        StackConfig(depth=1, d_model=8, num_heads=2, d_ff=8)
    with pytest.raises(UserError, match="unknown field 'depth'"):
        models.gpt.gpt(num_layers=1, d_model=8, num_heads=2, depth=3)


def _former(data):
    """Return a stored configuration with all its names as version 0.1.0 wrote them."""
    if isinstance(data, list):
        return [_former(item) for item in data]
    if not isinstance(data, dict):
        return data
    old = {new: old for old, new in former_names.FIELDS.get(data.get("class"), {}).items()}
    data = {old.get(name, name): _former(value) for name, value in data.items()}
    return data | {"head": "words"} if data.get("head") == "tokens" else data


@pytest.mark.parametrize("name", ["t5", "gpt", "bert", "electra"])
def test_configurations_are_read_under_former_names(name):
    now = models.preset("electra:small") if name == "electra" else config(name)
    stored = to_json(now)
    former = _former(stored)
    assert former != stored
    assert '"embed"' in json.dumps(former)
    assert from_json(former) == now
    if name == "bert":
        assert '"words"' in json.dumps(former)
        assert now.head == "tokens"


def test_values_are_changed_under_former_names():
    recipe = find("t5:quickstart")()
    now = overridden(recipe, {"model.encoder.d_model": 64, "model.decoder.d_model": 64})
    assert overridden(recipe, {"model.encoder.embed": 64, "model.decoder.embed": 64}) == now
    assert (
        override(recipe, ["--model.encoder.embed", "64", "--model.decoder.embed=64"], prog="t2t", description="") == now
    )
    with pytest.raises(UserError, match=r"^t2t: unknown option --data\.embed\."):
        override(recipe, ["--data.embed", "64"], prog="t2t", description="")


@pytest.mark.parametrize("words", [["--model.head", "words"], ["--model.head=words"]])
def test_values_of_options_are_understood_under_former_names(words):
    recipe = find("bert:quickstart")()
    assert override(recipe, words, prog="t2t", description="") == recipe
    with pytest.raises(UserError, match="'word'"):
        override(recipe, ["--model.head", "word"], prog="t2t", description="")
