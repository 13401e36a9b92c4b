"""DoRA, IA3 and virtual tokens: what they compute and what is refused. `test_lora` has what all adapters have in common."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.adapters import Adapter, is_of_adapter
from t2t.decode import Beam, Greedy, generate
from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.nn.adapters import DoRA
from t2t.nn.initializers import Normal
from t2t.nn.linear import Linear
from t2t.nn.parameters import Definition, put
from t2t.objectives import Contrastive
from t2t.optim.paths import path_name
from t2t.sharding import MeshConfig
from t2t.train.experiment import check
from t2t.types import Tokens
from tests.adapters.test_lora import adapted
from tests.models.tiny import VOCAB, config, params_of, quick_jit, some_batch
from tests.train.test_frozen import experiment, steps
from tests.train.test_step import close

DORA = Adapter(kind="dora", rank=3, alpha=6.0, targets=("**/layers/**",))
FACTORS = Adapter(kind="ia3", targets=("**/layers/**",))


@pytest.mark.parametrize(
    "name", ["gpt", pytest.param("t5", marks=pytest.mark.slow), pytest.param("bert", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("adapter", [DORA, FACTORS], ids=lambda adapter: adapter.kind)
def test_merged_is_unmerged_and_the_start_is_the_model(name, adapter):
    model, params, plain = adapted(config(name), adapter)
    base, batch = config(name).build(), some_batch(config(name).kind)
    logits = quick_jit(model.logits)
    alone = quick_jit(base.logits)
    found = logits(params, batch)
    largest = np.abs(found).max()
    np.testing.assert_allclose(found, alone(model.merged(params), batch), atol=1e-5 * largest)
    fresh = flatten(quick_jit(model.init)(jax.random.key(0))) | flatten(plain)
    start = model.started(unflatten(fresh), [path for path in fresh if is_of_adapter(path)])
    tolerance = 0.0 if adapter.kind == "ia3" else 1e-5 * largest
    np.testing.assert_allclose(logits(start, batch), alone(plain, batch), atol=tolerance, rtol=0.0)


def test_dora_is_its_equation_and_the_norm_has_no_gradient():
    linear = Linear(6, 5, (None, None), bias=True, init=Normal(1.0))
    put(linear, "adapter", DoRA(6, 5, (None, None), rank=2, scale=1.5, dropout=0.0))
    definition = Definition(linear)
    random = np.random.default_rng(0)
    params = jax.tree.map(lambda spec: jnp.asarray(random.normal(size=spec.shape), jnp.float32), definition.specs)
    x = jnp.asarray(random.normal(size=(4, 6)), jnp.float32)

    def equation(params):
        own = params["adapter"]
        total = params["kernel"] + 1.5 * own["a"] @ own["b"]
        norm = jax.lax.stop_gradient(jnp.linalg.norm(total, axis=0))
        return jnp.sum((x @ (total * own["magnitude"] / norm) + params["bias"]) ** 3)

    found = jax.value_and_grad(lambda params: jnp.sum(definition.bind(params)(x) ** 3))(params)
    wanted = jax.value_and_grad(equation)(params)
    assert found[0] == pytest.approx(float(wanted[0]), rel=1e-5)
    for name in ("a", "b", "magnitude"):
        np.testing.assert_allclose(found[1]["adapter"][name], wanted[1]["adapter"][name], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(
        definition.bind(params).adapter.started(lambda: params["kernel"])["magnitude"],
        np.linalg.norm(params["kernel"], axis=0),
        rtol=1e-6,
    )


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [DORA, Adapter(kind="ia3")], ids=lambda adapter: adapter.kind)
def test_sharded_equals_unsharded_and_only_the_adapter_is_trained(adapter):
    wanted = replace(experiment("encoder_decoder"), adapter=adapter)
    before, one, told = steps(wanted)
    _, other, sharded = steps(wanted, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    assert [float(m["loss"]) for m in told] == pytest.approx([float(m["loss"]) for m in sharded], rel=1e-4)
    close(jax.device_get(one.params), other.params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(one.params):
        old = functools.reduce(lambda tree, key: tree[key.key], path, before)
        assert np.array_equal(leaf, old) != is_of_adapter(path_name(path)), path


def with_real_tokens(name: str, count: int = 3):
    """Return a model with virtual tokens that are those of real ids, its parameters, the model alone, its parameters, and the ids."""
    adapter = Adapter(kind="prompt", virtual_tokens=count)
    base, plain = params_of(config(name))
    ids = np.arange(5, 5 + count)
    params = flatten(plain)
    params["embeddings/token/virtual/table"] = params["embeddings/token/table"][ids]
    return adapter.applied(base), unflatten(params), base, plain, ids


def preceded(tokens: Tokens, ids: np.ndarray) -> Tokens:
    """Return the tokens after real ones with these ids."""
    rows, count = len(tokens.ids), len(ids)
    before = np.broadcast_to(ids, (rows, count))
    return Tokens(
        ids=np.concatenate([before, tokens.ids], 1).astype(np.int32),
        positions=np.concatenate([np.broadcast_to(np.arange(count), (rows, count)), tokens.positions + count], 1),
        segments=np.concatenate([np.ones((rows, count), np.int32), tokens.segments], 1),
    )


@pytest.mark.parametrize("name", ["t5", "gpt", "bert"])
def test_virtual_tokens_compute_what_real_tokens_of_the_same_vectors_do(name):
    model, params, base, plain, ids = with_real_tokens(name)
    batch = some_batch(model.config.kind)
    side = "decoder" if name == "gpt" else "encoder"
    tokens = dataclasses.replace(getattr(batch, side), types=None)
    batch = replace(batch, **{side: tokens})
    longer = replace(batch, **{side: preceded(tokens, ids)})
    wanted = quick_jit(base.logits)(plain, longer)
    found = quick_jit(model.logits)(params, batch)
    np.testing.assert_allclose(found, wanted if name == "t5" else wanted[:, len(ids) :], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("decoding", [Greedy(), Beam(size=2)], ids=lambda decoding: type(decoding).__name__)
@pytest.mark.parametrize("name", ["t5", "gpt"])
def test_virtual_tokens_before_a_prompt(name, decoding):
    model, params, base, plain, ids = with_real_tokens(name)
    batch = some_batch(model.config.kind, length=4)
    side = "decoder" if name == "gpt" else "encoder"
    longer = replace(batch, **{side: preceded(getattr(batch, side), ids)})
    found = generate(model, params, batch, decoding, length=5, eos_id=0, vocab_size=VOCAB)
    wanted = generate(base, plain, longer, decoding, length=5, eos_id=0, vocab_size=VOCAB)
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def unpacked(adapter: Adapter, kind: str = "decoder"):
    wanted = experiment(kind)
    return replace(wanted, adapter=adapter, data=replace(wanted.data, pack=False, inputs_length=4, targets_length=8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: replace(e, data=replace(e.data, pack=True)), r"virtual_tokens 4 .*data.pack is True.*Nearest: False"),
        (lambda e: replace(e, objective=Contrastive()), r"virtual_tokens 4 .*Contrastive does not support"),
        (lambda e: replace(e, adapter=Adapter(kind="prompt", virtual_tokens=9)), r"virtual_tokens 9 .*21 tokens, more than the model's 16 .*Nearest: 4"),
    ],
)  # fmt: skip
def test_virtual_tokens_that_do_not_fit_are_refused(change, message):
    wanted = unpacked(Adapter(kind="prompt", virtual_tokens=4))
    check(wanted, 8)
    with pytest.raises(UserError, match=message) as raised:
        check(change(wanted), 8)
    assert "\n" not in str(raised.value)


def test_virtual_tokens_are_neither_merged_nor_given_to_labels():
    model, params, *_ = with_real_tokens("gpt")
    with pytest.raises(UserError, match=r"virtual tokens cannot be merged"):
        model.merged(params)
    label = replace(config("bert"), head="label", labels=("a", "b"), head_transform=False, head_bias=False)
    with pytest.raises(UserError, match=r"for models that predict tokens"):
        Adapter(kind="prompt", virtual_tokens=2).applied(label.build())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "lore"}, r"unknown adapter.kind 'lore'.*Nearest: lora"),
        ({"kind": "dora"}, r"adapter.kind is 'dora', but there is no adapter: adapter.rank is None"),
        ({"kind": "prompt"}, r"adapter.virtual_tokens is None .*Nearest: 20"),
        ({"kind": "ia3", "rank": 4}, r"adapter.rank is 4, but adapter.kind is 'ia3'.*Nearest: lora"),
        ({"rank": 4, "virtual_tokens": 3}, r"adapter.virtual_tokens is 3, but adapter.kind is 'lora'.*Nearest: prompt"),
        ({"rank": 4, "scaled_inputs": ()}, r"adapter.scaled_inputs is \(\).*Nearest: ia3"),
    ],
)
def test_options_of_another_kind_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        Adapter(**fields)
