"""LoRA of token embeddings and of the separate kernel of a language-model head."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from t2t.adapters import Adapter
from t2t.decode import Greedy, generate
from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from tests.adapters.test_lora import adapted
from tests.models.tiny import config, quick_jit, some_batch
from tests.train.test_frozen import experiment, steps

BOTH = Adapter(rank=2, alpha=6.0, targets=("embeddings/token", "lm_head"))
MODELS = {
    "t5": config("t5"),
    "gpt": config("gpt", tied=False),
    "bart": config("bart", tied=False),
    "bert": config("bert", tied=False),
    "t5gemma": config("merged", tied=False),
}
NAMES = [name if name in ("t5", "gpt") else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


def of(name):
    tables = [path for path in flatten(MODELS[name].build().specs) if path.endswith("/token/table")]
    targets = (*(path.removesuffix("/table") for path in tables), "lm_head")
    return adapted(MODELS[name], replace(BOTH, targets=targets)), len(targets)


@pytest.mark.parametrize(
    "name", [name if name == "gpt" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_at_the_start_the_logits_are_those_of_the_model_bit_for_bit(name):
    model = of(name)[0][0]
    base, batch = MODELS[name].build(), some_batch(MODELS[name].kind)
    fresh = quick_jit(model.init)(jax.random.key(0))
    plain = {path: leaf for path, leaf in flatten(fresh).items() if "/adapter/" not in path}
    one, other = (np.asarray(quick_jit(m.logits)(p, batch)) for m, p in ((model, fresh), (base, unflatten(plain))))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_merged_is_unmerged(name):
    (model, params, plain), targets = of(name)
    assert sum(path.endswith("/a") and "/adapter/" in path for path in flatten(params)) == targets
    base, merged = MODELS[name].build(), model.merged(params)
    assert flatten(merged).keys() == flatten(plain).keys()
    batch = some_batch(MODELS[name].kind)
    one, other, before = (
        np.asarray(quick_jit(m.logits)(p, batch)) for m, p in ((model, params), (base, merged), (base, plain))
    )
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())
    assert np.abs(one - before).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "gpt"])
def test_steps_of_decoding_are_those_of_the_merged_model(name):
    (model, params, _), _ = of(name)
    base, merged = MODELS[name].build(), model.merged(params)
    batch = some_batch(MODELS[name].kind, length=4)
    made = [generate(m, p, batch, Greedy(), length=6, eos_id=0) for m, p in ((model, params), (base, merged))]
    np.testing.assert_array_equal(made[0].ids, made[1].ids)
    np.testing.assert_allclose(made[0].scores, made[1].scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_only_the_adapter_is_trained(kind):
    before, state, told = steps(replace(experiment(kind), adapter=BOTH))
    old = flatten(before)
    for path, leaf in flatten(state.params).items():
        assert np.array_equal(leaf, old[path]) != ("/adapter/" in path), path
    assert told[-1]["loss"] < told[0]["loss"]


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ("gpt", {"targets": ("embeddings/token",)}, r"'embeddings/token' \(--adapter.targets\): embeddings/token cannot have an adapter, because the logits come from the same table \(model.tied\)"),
        ("gpt", {"targets": ("lm_head",)}, r"'lm_head' matches no linear layer, kernel of experts or embedding"),
        ("t5", {"targets": ("lm_head",), "rank": 17}, r"adapter.rank 17 .*lm_head, which is 16 x 40. Nearest: 16"),
        ("t5", {"targets": ("lm_head",), "kind": "dora"}, r"adapter.kind 'dora' .*lm_head is not a linear layer, and can have LoRA only"),
        ("t5", {"targets": ("embeddings/token",), "dropout": 0.1}, r"adapter.dropout 0.1 .*embeddings/token is not a linear layer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(model, changes, message):
    with pytest.raises(UserError, match=message) as raised:
        replace(BOTH, **changes).applied(config(model).build())
    assert "\n" not in str(raised.value)
