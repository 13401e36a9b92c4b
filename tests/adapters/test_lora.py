"""LoRA: what it computes, what it trains, and what is refused."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.adapters import Adapter
from t2t.decode import Greedy, generate
from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.optim import Trainable
from t2t.optim.paths import flatten_specs, path_name
from t2t.sharding import MeshConfig
from t2t.train.experiment import check
from t2t.train.program import Program
from tests.models.tiny import config, params_of, quick_jit, some_batch
from tests.train.test_frozen import experiment, steps
from tests.train.test_step import close

EVERYWHERE = Adapter(rank=4, alpha=6.0, targets=("**/layers/**",))
NAMES = ("t5", "gpt", "bert")
SHARED = {
    "t5 with shared layers": config("t5-shared", d_model=16),
    "groups of layers": replace(config("bert"), encoder=replace(config("bert").encoder, groups=1)),
}


@functools.cache
def adapted(model_config, adapter: Adapter = EVERYWHERE, drawn: bool = True):
    """Return the model with the adapter, its parameters and those of the model alone. drawn: `b` is random, not zero."""
    base, params = params_of(model_config)
    model = adapter.applied(base)
    random, flat = np.random.default_rng(1), flatten(params)
    for path, spec in flatten_specs(model.specs).items():
        if path not in flat:
            zero = path.endswith("/b") and not drawn
            flat[path] = jnp.asarray((not zero) * 0.3 * random.normal(size=spec.shape), jnp.float32)
    return model, unflatten(flat), params


@pytest.mark.parametrize("jit", [quick_jit, pytest.param(jax.jit, marks=pytest.mark.slow)], ids=["quick", "optimized"])
@pytest.mark.parametrize("name", NAMES)
def test_at_the_start_the_logits_are_those_of_the_model_bit_for_bit(name, jit):
    model, params, plain = adapted(config(name, dropout=0.1), drawn=False)
    base = config(name, dropout=0.1).build()
    batch = some_batch(base.config.kind)
    for key in (None, jax.random.key(3)):  # the adapter's dropout takes no key of the model's
        with_adapter, alone = (
            np.asarray(jit(functools.partial(one.logits, dropout_key=key))(values, batch))
            for one, values in ((model, params), (base, plain))
        )
        np.testing.assert_array_equal(with_adapter, alone)


def test_the_first_parameters_of_the_model_do_not_depend_on_the_adapter():
    base = config("gpt").build()
    fresh = quick_jit(EVERYWHERE.applied(base).init)(jax.random.key(0))
    initial = flatten(quick_jit(base.init)(jax.random.key(0)))
    for path, leaf in flatten(fresh).items():
        if path in initial:
            np.testing.assert_array_equal(leaf, initial[path], err_msg=path)
        else:
            assert (np.abs(leaf).max() > 0) == path.endswith("/a"), path


@pytest.mark.parametrize("model_config", [config(name) for name in NAMES] + list(SHARED.values()))
def test_merged_is_unmerged(model_config):
    model, params, plain = adapted(model_config)
    batch = some_batch(model_config.kind)
    merged = model.merged(params)
    base = model_config.build()
    assert flatten(merged).keys() == flatten(plain).keys()
    one, other, before = (
        np.asarray(quick_jit(m.logits)(p, batch)) for m, p in ((model, params), (base, merged), (base, plain))
    )
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())
    assert np.abs(one - before).max() > 0.1


@pytest.mark.parametrize("name", ["t5", "gpt"])
def test_steps_of_decoding_are_those_of_the_merged_model(name):
    model, params, _ = adapted(config(name))
    batch = some_batch(model.config.kind, length=4)
    made = [
        generate(one, values, batch, Greedy(), length=6, eos_id=0)
        for one, values in (
            (model, params),
            (model.rebuilt(model.config), params),
            (config(name).build(), model.merged(params)),
        )
    ]
    for other in made[1:]:
        np.testing.assert_array_equal(made[0].ids, other.ids)
        np.testing.assert_allclose(made[0].scores, other.scores, atol=1e-4)


def test_a_rank_stabilized_product_is_multiplied_by_alpha_by_the_root_of_the_rank():
    assert Adapter(rank=16, alpha=32.0).scale == 2.0
    assert Adapter(rank=16, alpha=32.0, rank_stabilized=True).scale == 8.0
    assert Adapter(rank=16).scale == 1.0


def test_the_product_of_the_two_matrices_is_never_computed():
    """`x @ a @ b` has no intermediate result of the kernel's shape, forward and backward."""
    adapter = replace(EVERYWHERE, targets=("**/mlp/up",))
    model, params, _ = adapted(config("gpt"), adapter)
    batch = some_batch("decoder", length=9)  # the number of tokens is that of no axis of the kernel
    names = [path for path in flatten(params) if "/adapter/" in path]
    shape = tuple(flatten_specs(model.specs)["decoder/layers/mlp/up/kernel"].shape[1:])

    def loss(values):
        return jnp.sum(model.logits(unflatten({**flatten(params), **values}), batch) ** 2)

    text = str(jax.make_jaxpr(jax.grad(loss))({name: flatten(params)[name] for name in names}))
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert not [line for line in products if f"f32[{shape[0]},{shape[1]}] = dot_general" in line]


@pytest.mark.parametrize(
    "kind", ["decoder", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("encoder_decoder", "encoder"))]
)
def test_only_the_adapter_is_trained(kind):
    head = {"encoder": "transform/**"}.get(kind, "**/final_norm/**")
    adapter = Adapter(rank=2, targets=("**/layers/**",), trained=(head,))
    wanted = replace(experiment(kind, Trainable(frozen_dtype="bfloat16")), adapter=adapter)
    before, state, told = steps(wanted)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = path_name(path)
        old = functools.reduce(lambda tree, key: tree[key.key], path, before)
        trained = "/adapter/" in name or name.startswith("transform/") or ("final_norm" in name and kind != "encoder")
        assert leaf.dtype == (jnp.float32 if trained else jnp.bfloat16), name
        assert np.array_equal(leaf, old) != trained, name
    states = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)}
    assert any("adapter" in path for path in states)
    assert not any(path.endswith("kernel") and "transform" not in path for path in states)
    assert told[-1]["loss"] < told[0]["loss"]


@pytest.mark.parametrize(
    ("kind", "mesh"),
    [
        ("decoder", MeshConfig(data=2, fsdp=2, tensor=2)),
        pytest.param("encoder_decoder", MeshConfig(data=1, fsdp=2, context=2, tensor=2), marks=pytest.mark.slow),
    ],
)
def test_sharded_equals_unsharded(kind, mesh):
    wanted = replace(experiment(kind), adapter=Adapter(rank=3, targets=("**/layers/**",), dropout=0.2))
    _, one, told = steps(wanted)
    _, other, sharded = steps(wanted, mesh=mesh)
    for single, divided in zip(told, sharded, strict=True):
        assert {k: float(v) for k, v in single.items()} == pytest.approx(
            {k: float(v) for k, v in divided.items()}, rel=1e-4
        )
    close(jax.device_get(one.params), other.params)


def test_dropout_differs_by_layer_and_key_and_is_off_without_a_key():
    model, params, _ = adapted(config("gpt"), replace(EVERYWHERE, dropout=0.5))
    exact, _, _ = adapted(config("gpt"))
    batch = some_batch("decoder")
    logits = quick_jit(lambda key: model.logits(params, batch, dropout_key=key))
    one, again, other = (np.asarray(logits(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-2
    np.testing.assert_array_equal(quick_jit(model.logits)(params, batch), quick_jit(exact.logits)(params, batch))


def test_a_plan_counts_the_adapter():
    wanted = replace(
        experiment("decoder"), adapter=Adapter(rank=2, targets=("decoder/layers/attention/{query,value}",))
    )
    program = Program.of(wanted, MeshConfig(data=1).build(jax.devices()[:1]))
    trained, all_parameters = program.counts()
    base = Program.of(experiment("decoder"), MeshConfig(data=1).build(jax.devices()[:1])).counts()[1]
    assert trained == 2 * 2 * 2 * (16 + 16)
    assert all_parameters == base + trained


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"targets": ("**/attention/qery",)}, r"adapter.targets: the pattern '\*\*/attention/qery' matches no linear layer, kernel of experts or embedding. Nearest: .*attention/query"),
        ({"targets": ("embeddings/token/table",)}, r"adapter.targets: .*matches no linear layer"),
        ({"targets": ("**/query",), "exclude": ("**/query",)}, r"leaves no linear layer.*--adapter.exclude"),
        ({"rank": 17}, r"adapter.rank 17 \(--adapter.rank\) is more than .*decoder/layers/attention/query, which is 16 x 16. Nearest: 16"),
        ({"trained": ("head/**",)}, r"adapter.trained: the pattern 'head/\*\*' matches no parameter"),
        ({"rank": None, "alpha": 3.0}, r"adapter.alpha is 3.0, but there is no adapter: adapter.rank is None"),
        ({"rank": 0}, r"rank 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_line(adapter, message):
    with pytest.raises(UserError, match=message) as raised:
        check(replace(experiment("decoder"), adapter=Adapter(**{"rank": 2, **adapter})), 8)
    assert "\n" not in str(raised.value)


def test_dropout_outside_of_stacks_is_refused():
    adapter = Adapter(rank=2, targets=("transform/dense", "**/query"), dropout=0.1)
    with pytest.raises(UserError, match=r"transform/dense is not in a stack.*--adapter.exclude transform/dense"):
        adapter.applied(config("bert").build())
