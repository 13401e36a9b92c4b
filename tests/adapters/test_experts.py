"""LoRA of the kernels of experts and of their router."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import numpy as np
import pytest

from t2t.adapters import Adapter
from t2t.adapters.bank import attach_bank
from t2t.decode import Greedy, generate
from t2t.errors import UserError
from t2t.export.directory import flatten
from t2t.sharding import MeshConfig
from t2t.train.program import Program
from tests.adapters.test_lora import adapted
from tests.models.tiny import config, quick_jit, some_batch
from tests.train.test_frozen import experiment, steps
from tests.train.test_step import VOCAB, close

EXPERTS = Adapter(rank=2, alpha=6.0, targets=("**/moe/{up,gate,down,router}",))
SIZES = {"num_layers": 1, "num_heads": 8, "vocab_size": VOCAB}
MODELS = {
    "without a limit": config("moe", **SIZES),
    "with a capacity": config("moe", **SIZES, expert_capacity=1.0),
    "biases": config("moe", **SIZES, biases=True, expert_limit=7.0),
    "deepseek": config("deepseek"),
}
SLOW = ("biases", "deepseek")
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in MODELS]


def logits(model, params, batch, jit=quick_jit):
    return np.asarray(jit(functools.partial(model.logits, dropout_key=None))(params, batch))


@pytest.mark.parametrize("name", NAMES)
def test_at_the_start_the_logits_are_those_of_the_model_bit_for_bit(name):
    model, params, plain = adapted(MODELS[name], EXPERTS, drawn=False)
    batch = some_batch("decoder")
    np.testing.assert_array_equal(logits(model, params, batch), logits(MODELS[name].build(), plain, batch))


@pytest.mark.parametrize("name", NAMES)
def test_merged_is_unmerged(name):
    model, params, plain = adapted(MODELS[name], EXPERTS)
    base, merged = MODELS[name].build(), model.merged(params)
    assert flatten(merged).keys() == flatten(plain).keys()
    batch = some_batch("decoder", length=6)
    one, other, before = (logits(m, p, batch) for m, p in ((model, params), (base, merged), (base, plain)))
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())
    assert np.abs(one - before).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_steps_of_decoding_are_those_of_the_merged_model(name):
    model, params, _ = adapted(MODELS[name], EXPERTS)
    base, merged = MODELS[name].build(), model.merged(params)
    batch = some_batch("decoder", length=6)
    made = [generate(m, p, batch, Greedy(), length=4, eos_id=0) for m, p in ((model, params), (base, merged))]
    np.testing.assert_array_equal(made[0].ids, made[1].ids)
    np.testing.assert_allclose(made[0].scores, made[1].scores, atol=1e-4)


def training(name="without a limit", **changes):
    adapter = replace(EXPERTS, **changes)
    return replace(experiment("decoder"), model=MODELS[name], adapter=adapter)


@pytest.mark.slow
def test_only_the_adapter_is_trained():
    before, state, told = steps(training())
    old, new = flatten(before), flatten(state.params)
    for path, leaf in new.items():
        assert np.array_equal(leaf, old[path]) != ("/adapter/" in path), path
    assert told[-1]["loss"] < told[0]["loss"]


def test_a_plan_counts_the_adapters_of_all_experts():
    trained, _ = Program.of(training(), MeshConfig(data=1).build(jax.devices()[:1])).counts()
    experts, width, inner, rank = 4, 16, 12, 2
    assert trained == rank * (experts * 3 * (width + inner) + width + experts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "mesh"),
    [
        ("without a limit", MeshConfig(data=1, fsdp=2, expert=4)),
        ("with a capacity", MeshConfig(data=2, expert=2, tensor=2)),
        ("biases", MeshConfig(data=2, expert=2, tensor=2)),
    ],
    ids=str,
)
def test_sharded_equals_unsharded(name, mesh):
    _, one, told = steps(training(name))
    _, other, sharded = steps(training(name), mesh=mesh)
    for single, divided in zip(told, sharded, strict=True):
        assert float(single["loss"]) == pytest.approx(float(divided["loss"]), rel=1e-4)
    close(jax.device_get(one.params), other.params)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("**/moe/upp",)}, r"'\*\*/moe/upp' matches no linear layer, kernel of experts or embedding. Nearest: .*moe/up"),
        ({"rank": 5}, r"adapter.rank 5 .*decoder/layers/moe/router, which is 16 x 4. Nearest: 4"),
        ({"kind": "dora"}, r"adapter.kind 'dora' .*decoder/layers/moe/down is not a linear layer.* Nearest: lora, or --adapter.exclude"),
        ({"dropout": 0.1}, r"adapter.dropout 0.1 .*decoder/layers/moe/down is not a linear layer.* Nearest: 0.0, or --adapter.exclude"),
    ],
)  # fmt: skip
def test_what_experts_cannot_have_is_refused_in_one_line(changes, message):
    with pytest.raises(UserError, match=message) as raised:
        replace(EXPERTS, **changes).applied(MODELS["without a limit"].build())
    assert "\n" not in str(raised.value)


def test_experts_have_one_adapter_for_all_rows_of_a_batch():
    with pytest.raises(
        UserError, match=r"adapters: decoder/layers/moe/down is not a linear layer.* Nearest: t2t infer"
    ):
        MODELS["without a limit"].build().adapted(functools.partial(attach_bank, adapters=(EXPERTS,)))
