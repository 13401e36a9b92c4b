"""What models say they can do, and what follows from it."""

import pytest

from t2t.api.recipes import recipes
from t2t.models import bert, electra, gpt, t5

SIZES = {"num_layers": 1, "d_model": 16, "num_heads": 2, "vocab_size": 64}
TEXT = {"predict", "generate"}
MODELS = {
    "t5": (t5.t5(d_ff=16, **SIZES), TEXT),
    "gpt": (gpt.gpt(max_length=20, **SIZES), {*TEXT, "continue_text", "predict_inputs"}),
    "prefix": (gpt.gpt(max_length=20, mask="prefix", **SIZES), {*TEXT, "continue_text"}),
    "bert": (bert.bert(max_length=20, **SIZES), {"predict", "embed", "fill_mask"}),
    "label": (bert.bert(head="label", labels=("a", "b", "c"), **SIZES), {"predict", "embed", "classify"}),
    "tags": (bert.bert(head="tags", labels=("a", "b"), **SIZES), {"predict", "embed", "tag"}),
    "span": (bert.bert(head="span", **SIZES), {"predict", "embed", "find_span"}),
    "electra": (electra.electra(divisor=2, **SIZES), {"detect", "embed", "fill_mask"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_capabilities(name):
    config, wanted = MODELS[name]
    assert config.capabilities == wanted
    assert all(config.can(what) for what in wanted)
    assert not config.can("predict_inputs") or not config.noncausal_prefix


def test_what_is_declared():
    of = {name: config for name, (config, _) in MODELS.items()}
    assert [of[name].sides for name in ("t5", "gpt", "bert")] == [("encoder", "decoder"), ("decoder",), ("encoder",)]
    assert [of[name].room(5) for name in ("t5", "gpt", "bert")] == [None, 15, 20]
    assert [of[name].num_outputs(12) for name in ("gpt", "bert", "label", "tags", "span")] == [64, 64, 3, 2, 12]
    assert [of[name].answer_places for name in ("gpt", "bert", "label", "tags", "span")] == [None, None, 1, None, 2]
    assert [of[name].types for name in ("gpt", "bert", "electra")] == [0, 2, 2]
    assert of["label"].labels == ("a", "b", "c")
    assert of["gpt"].labels == ()
    assert of["gpt"].execution.keys() == {"attention", "attention_block", "remat", "unroll"}


def test_every_recipe_has_an_objective_for_its_model():
    for recipe in recipes().values():
        experiment = recipe()
        experiment.objective.check(experiment.model)
