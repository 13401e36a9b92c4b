"""Mixtures of experts: equal to a loop over tokens, to a dense layer if all experts are alike, and their terms to the formulas of the papers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.models import llama
from t2t.models.config import LayerOptions
from t2t.nn.aux import over_layers, with_aux
from t2t.nn.dropout import Keys
from t2t.nn.initializers import Normal
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.mlp import MLPConfig
from t2t.nn.moe.dispatch import equal_room
from t2t.nn.moe.layer import MoEConfig
from t2t.nn.moe.router import Balance, Router, jittered
from t2t.nn.parameters import Definition
from tests.models.tiny import quick_jit

WIDTH, INNER, ROWS, LENGTH = 6, 5, 2, 9
OPTIONS = BuildOptions(width=WIDTH, kernel_init=lambda *_, **__: Normal(0.5))
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
SEGMENTS = np.array([[1] * 5 + [2] * 2 + [0] * 2, [1] * 9])
CONFIG = MoEConfig(num_experts=4, inner=INNER)
NAMES = ("counts", "scores", "tokens")
"""Sums of the load-balancing loss."""


def drawn(config):
    definition = Definition(config.build(OPTIONS))
    return definition, definition.init(jax.random.key(3))


def applied(config, params, x=X, segments=SEGMENTS, key=None):
    definition = Definition(config.build(OPTIONS))
    run = quick_jit(lambda params, x: definition.bind(params)(x, Context(segments=segments, keys=Keys(key))))
    return run(params, x)


def silu(x):
    return x / (1 + np.exp(-x))


def looped(config, params, x=X, segments=SEGMENTS):
    """Return the output computed for one token after the other."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    out = np.zeros(x.shape)
    for place in np.ndindex(x.shape[:2]):
        logits = x[place] @ params["router"] + params.get("router_bias", 0.0)
        scores = np.exp(logits) / np.exp(logits).sum()
        if config.router.scores == "sigmoid":
            scores = 1 / (1 + np.exp(-logits))
        preferred = scores + params.get("bias", 0.0)
        if config.router.groups > 1:
            groups = np.sort(preferred.reshape(config.router.groups, -1), axis=1)[:, -2:].sum(axis=1)
            allowed = np.argsort(-groups)[: config.router.groups_per_token]
            inside = np.isin(np.arange(len(scores)) // (len(scores) // config.router.groups), allowed)
            preferred = np.where(inside, preferred, -np.inf)
        best = np.argsort(-preferred)[: config.experts_per_token]
        weights = config.router.scale * scores[best] / (scores[best].sum() if config.router.normalized else 1.0)
        for expert, weight in zip(best, weights, strict=True):
            gate, up = (
                x[place] @ params[name][expert] + params.get(f"{name}_bias", np.zeros(4))[expert]
                for name in ("gate", "up")
            )
            if config.limit is not None:  # OpenAI 2025, section 2.2
                gate, up = np.minimum(gate, config.limit), np.clip(up, -config.limit, config.limit) + 1
            hidden = (gate / (1 + np.exp(-1.702 * gate)) if config.activation == "quick_gelu" else silu(gate)) * up
            out[place] += weight * (hidden @ params["down"][expert] + params.get("down_bias", np.zeros(4))[expert])
    return out * (segments > 0)[..., None]


ROUTERS = {
    "Mixtral": (2, Router()),
    "Switch": (1, Router(normalized=False)),
    "unnormalized": (3, Router(normalized=False)),
    "sigmoid": (2, Router(scores="sigmoid")),
    "scaled": (2, Router(scores="sigmoid", scale=2.5)),
    "groups, biases": (2, Router(scores="sigmoid", groups=2, groups_per_token=1, bias_rate=0.1)),
}


@pytest.mark.parametrize("capacity", [None, 100.0], ids=["sorted", "with room for all"])
@pytest.mark.parametrize(("chosen", "router"), ROUTERS.values(), ids=ROUTERS)
def test_the_output_is_that_of_a_loop_over_tokens(chosen, router, capacity):
    config = dataclasses.replace(CONFIG, experts_per_token=chosen, router=router, capacity=capacity)
    _, params = drawn(config)
    if "bias" in params:
        params["bias"] = jnp.array([0.5, -0.3, 0.0, 0.2])
    np.testing.assert_allclose(applied(config, params)[0], looped(config, params), atol=1e-5)


OPEN = dataclasses.replace(CONFIG, biases=True, limit=0.4, activation="quick_gelu")
"""Experts like those of gpt-oss."""


def with_biases(config):
    """Return parameters whose biases are not 0."""
    params = drawn(config)[1]
    shift = lambda path, x: x + RANDOM.normal(size=x.shape) * 0.3 if "bias" in path[-1].key else x  # noqa: E731
    return jax.tree_util.tree_map_with_path(shift, params)


@pytest.mark.parametrize("capacity", [None, 100.0], ids=["sorted", "with room for all"])
def test_experts_with_biases_and_bounded_branches_are_a_loop_over_tokens(capacity):
    config, params = dataclasses.replace(OPEN, capacity=capacity), with_biases(OPEN)
    wanted = looped(config, params)
    np.testing.assert_allclose(applied(config, params)[0], wanted, atol=1e-5)
    unbounded = applied(dataclasses.replace(config, limit=100.0), params)[0]
    assert np.abs(unbounded - wanted).max() > 0.1


@pytest.mark.parametrize("config", [CONFIG, OPEN], ids=["plain", "biases"])
def test_both_ways_have_the_same_gradients_and_none_from_padding(config):
    params = with_biases(config)
    weights = RANDOM.normal(size=X.shape).astype(np.float32)

    def gradients(config):
        definition = Definition(config.build(OPTIONS))

        def loss(params, x):
            return jnp.sum(definition.bind(params)(x, Context(segments=SEGMENTS))[0] * weights)

        return quick_jit(jax.grad(loss, argnums=(0, 1)))(params, X)

    one, other = gradients(config), gradients(dataclasses.replace(config, capacity=100.0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, other)
    assert all(np.abs(leaf).max() > 0.01 for leaf in jax.tree.leaves(one))
    assert not one[1][SEGMENTS == 0].any()


def test_the_gradient_of_a_bias_is_the_load_of_its_expert_and_no_other_gradient_changes():
    router = Router(scores="sigmoid", bias_rate=0.1)
    config = dataclasses.replace(CONFIG, router=router)
    _, params = drawn(config)
    plain = dataclasses.replace(config, router=Router(scores="sigmoid"))

    def gradients(config, params, remat=False):
        definition = Definition(config.build(OPTIONS))

        def loss(params):
            out, aux = definition.bind(params)(jnp.asarray(X), Context(segments=SEGMENTS))
            return jnp.sum(out**2) + aux["balance_loss"].value

        return quick_jit(jax.grad(jax.checkpoint(loss) if remat else loss))(params)

    found = gradients(config, params)
    load = found.pop("bias")
    shares = [float(term.sum / term.weight) for name, term in applied(config, params)[1].items() if "load" in name]
    assert load.sum() == 2 * (SEGMENTS > 0).sum()
    assert [float(load.max() / load.mean()), float(load.min() / load.mean())] == pytest.approx(shares)
    wanted = gradients(plain, {name: leaf for name, leaf in params.items() if name != "bias"})
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, wanted)
    np.testing.assert_array_equal(gradients(config, params, remat=True)["bias"], load)


def test_dropout_of_the_inner_layer_is_the_same_whatever_the_room():
    options = dataclasses.replace(OPTIONS, dropout=0.5)
    _, params = drawn(CONFIG)

    def out(capacity, key):
        layer = Definition(dataclasses.replace(CONFIG, capacity=capacity).build(options))
        run = quick_jit(lambda params, x: layer.bind(params)(x, Context(segments=SEGMENTS, keys=Keys(key)))[0])
        return run(params, X)

    one, other = out(None, jax.random.key(2)), out(100.0, jax.random.key(2))
    np.testing.assert_allclose(one, other, atol=1e-5)
    np.testing.assert_allclose(out(None, None), applied(CONFIG, params)[0], atol=1e-5)
    assert np.abs(one - out(None, None)).max() > 0.01


def test_the_loss_of_each_row_is_computed_from_all_layers_of_the_row():
    config = dataclasses.replace(CONFIG, router=Router(balance_over="row", balance_loss=0.5))
    _, params = drawn(config)
    layers = [applied(config, params, x=x)[1]["balance_loss"] for x in (X, X[:, ::-1] + 0.5)]
    both = over_layers({"balance_loss": jax.tree.map(lambda *parts: jnp.stack(parts), *layers)})["balance_loss"]
    rows = []
    for row in range(ROWS):
        counts, scores, tokens = (sum(np.asarray(getattr(one, name))[row] for one in layers) for name in NAMES)
        rows.append(4 * np.sum(counts / tokens * scores / tokens))
    assert float(both.value) == pytest.approx(np.mean(rows), rel=1e-5)
    assert float(both.in_objective(jnp.float32(3.0))) == pytest.approx(1.5 * np.mean(rows), rel=1e-5)
    assert float(both.weight) == 2 * (SEGMENTS > 0).sum()


def test_experts_that_are_all_alike_are_one_dense_layer():
    _, params = drawn(CONFIG)
    alike = {name: params[name][:1].repeat(4, axis=0) for name in ("up", "gate", "down")}
    mlp = Definition(MLPConfig(inner=INNER, activation="silu", gated=True).build(OPTIONS))
    dense = mlp.bind({name: {"kernel": kernel[0]} for name, kernel in alike.items()})
    wanted, _ = dense(X, Context(segments=SEGMENTS))
    found = applied(CONFIG, {**params, **alike})[0]
    np.testing.assert_allclose(found[SEGMENTS > 0], wanted[SEGMENTS > 0], atol=1e-5)


@pytest.mark.parametrize("gated", [False, True])
def test_a_shared_expert_processes_every_token(gated):
    config = dataclasses.replace(CONFIG, shared=7, shared_gate=gated)
    definition, params = drawn(config)
    alone = {name: leaf for name, leaf in params.items() if name not in ("shared", "shared_gate")}
    shared, _ = definition.bind(params).shared(X, Context(segments=SEGMENTS))
    share = jax.nn.sigmoid(X @ params["shared_gate"]["kernel"]) if gated else 1.0
    np.testing.assert_allclose(applied(config, params)[0], applied(CONFIG, alone)[0] + share * shared, atol=1e-5)


def prefer(*experts):
    """Return logits that prefer experts in this order."""
    logits = np.zeros(4)
    logits[list(experts)] = [4.0, 2.0][: len(experts)]
    return logits


def test_an_expert_with_no_room_left_takes_first_choices_first_and_padding_takes_no_room():
    # Four tokens of width 4, whose logits are their values. Room for 2 x 4 / 4 x 0.5 = 1 token.
    tokens = np.stack([np.zeros(4), prefer(1, 0), prefer(0, 1), prefer(0, 2)])[None].astype(np.float32)
    config = MoEConfig(num_experts=4, inner=4, activation="relu", gated=False, capacity=0.5)
    options = dataclasses.replace(OPTIONS, width=4)
    layer = Definition(config.build(options))
    eye = np.eye(4, dtype=np.float32)
    params = {"router": eye, "up": np.stack([eye] * 4), "down": np.stack([eye * 10.0**n for n in range(4)])}
    out, aux = layer.bind(jax.tree.map(jnp.asarray, params))(tokens, Context(segments=np.array([[0, 1, 1, 1]])))
    first, second = np.exp(4) / (np.exp(4) + np.exp(2)), np.exp(2) / (np.exp(4) + np.exp(2))
    # Expert 1 takes the first token's first choice. Expert 0 takes that of the second token, and nothing else.
    factors = [0.0, 10.0 * first, first, 100.0 * second]
    np.testing.assert_allclose(out[0], tokens[0] * np.array(factors)[:, None], rtol=1e-5)
    dropped = aux["dropped_share"]
    assert float(dropped.sum / dropped.weight) == pytest.approx(0.5)  # 3 of 6 choices


def test_the_room_of_an_expert():
    rooms = [equal_room(*sizes) for sizes in ((64, 8, 1, 1.25), (64, 8, 2, 1.0), (3, 8, 1, 1.0), (4, 2, 2, 9.0))]
    assert rooms == [10, 16, 1, 4]
    limited = dataclasses.replace(CONFIG, tokens=5)
    assert (CONFIG.room(9), limited.room(9), limited.room(3)) == (None, 5, 3)


def test_the_terms_are_those_of_the_papers():
    config = dataclasses.replace(CONFIG, router=Router(balance_loss=0.1, z_loss=0.01))
    _, params = drawn(config)
    _, aux = applied(config, params)
    logits = (X @ np.asarray(params["router"]))[SEGMENTS > 0]
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argsort(-scores)[:, :2]
    share = np.array([(chosen == expert).any(-1).mean() for expert in range(4)])
    balance, z = 4 * np.sum(share * scores.mean(0)), np.mean(np.log(np.exp(logits).sum(-1)) ** 2)
    means = {name: float(term.sum / term.weight) for name, term in aux.items()}
    wanted = {"balance_loss": balance, "router_z_loss": z, "expert_load_max": 2 * share.max()}
    wanted["expert_load_min"] = 2 * share.min()
    assert means == pytest.approx(wanted, rel=1e-5)
    added = sum(float(term.in_objective(jnp.float32(10.0))) for term in aux.values())
    assert added == pytest.approx(10 * (0.1 * balance + 0.01 * z), rel=1e-5)
    _, inside = quick_jit(
        lambda params, x: Definition(config.build(OPTIONS)).bind(params)(
            x, Context(segments=SEGMENTS, bidirectional=True)
        )
    )(params, X)
    assert set(inside) == {f"encoder_{name}" for name in aux}


def test_layers_add_up_their_sums_before_they_are_multiplied():
    counts, scores = RANDOM.random((3, 4)), RANDOM.random((3, 4))
    layers = Balance(jnp.array(counts), jnp.array(scores), jnp.full(3, 5.0), objective=1.0)
    whole = over_layers({"balance_loss": layers})["balance_loss"]
    wanted = 4 * np.sum(counts.sum(0) / 15 * scores.sum(0) / 15)
    assert float(whole.value) == pytest.approx(wanted, rel=1e-5)
    even = Balance(jnp.full(4, 10.0), jnp.full(4, 5.0), jnp.float32(20.0))
    assert float(even.value) == pytest.approx(2.0)  # the number of experts per token


def test_the_load_balancing_loss_makes_the_load_even():
    definition, params = drawn(CONFIG)
    shifted = jnp.asarray(X + 1.0)
    params = {**params, "router": params["router"].at[:, 0].set(1.0)}  # every token's first choice

    def balance(params):
        return definition.bind(params)(shifted, Context(segments=SEGMENTS))[1]["balance_loss"].value

    step = quick_jit(lambda params: jax.tree.map(lambda p, g: p - 0.3 * g, params, jax.grad(balance)(params)))
    before = float(balance(params))
    for _ in range(40):
        params = step(params)
    after = float(balance(params))
    assert after < before - 0.3, (before, after)


def test_layer_by_layer_the_mean_of_the_losses_is_taken():
    config = dataclasses.replace(CONFIG, router=Router(balance_over="layer", balance_loss=0.5))
    _, params = drawn(config)
    one, other = applied(config, params)[1]["balance_loss"], applied(CONFIG, params)[1]["balance_loss"]
    assert float(one.sum / one.weight) == pytest.approx(float(other.value), rel=1e-5)
    assert float(one.in_objective(jnp.float32(4.0))) == pytest.approx(2 * float(other.value), rel=1e-5)


def test_the_objective_has_the_mean_of_the_loss_whatever_the_number_of_targets():
    from t2t.losses import LossSums

    sums = LossSums(objective=jnp.float32(6.0), loss=jnp.float32(6.0), weight=jnp.float32(3.0))
    term = Balance(jnp.full(4, 10.0), jnp.full(4, 5.0), jnp.float32(20.0), objective=0.1)
    found = with_aux(sums, {"balance_loss": term})
    assert float(found.objective / found.weight) == pytest.approx(2.0 + 0.1 * 2.0)
    value, weight = found.extra["balance_loss"]
    assert float(value / weight) == pytest.approx(2.0)


def test_jitter_is_for_training_and_reads_the_router_alone():
    noisy = jittered(jnp.ones((3, 4, 50)), 0.1, jax.random.key(0))
    assert 0.9 - 1e-6 < float(noisy.min()) < 0.91 < 1.09 < float(noisy.max()) < 1.1 + 1e-6
    config = dataclasses.replace(CONFIG, router=Router(jitter=0.5))
    _, params = drawn(config)
    plain, trained = applied(config, params)[0], applied(config, params, key=jax.random.key(1))[0]
    np.testing.assert_array_equal(plain, applied(CONFIG, params)[0])
    assert np.abs(plain - trained).max() > 1e-3


SIZES = {"num_layers": 4, "d_model": 16, "num_heads": 2, "d_ff": 24, "num_experts": 4}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts_per_token": 5}, r"experts_per_token is 5, more than model.num_experts = 4. Nearest: 4"),
        ({"experts_per_token": 1}, r"router.normalized is True with model.experts_per_token = 1.*Nearest: False"),
        ({"moe_every": 5}, r"moe_every is 5, more than model.num_layers = 4.*Nearest: 4"),
        ({"moe_every": 2, "num_experts": 0}, r"moe_every is 2; it needs model.num_experts"),
        ({"moe_every": 2, "pattern": (LayerOptions(window=3),)}, r"moe_every is 2.*pattern"),
        ({"expert_limit": 7.0, "gated": False}, r"expert_limit is 7.0, and model.gated is False.*Nearest: None"),
        ({"pattern": (LayerOptions(), LayerOptions(num_experts=8))}, r"layers have 4 and 8 experts.*Nearest: layer"),
        ({"router": Router(scores="tanh")}, r"unknown router.scores 'tanh'"),  # type: ignore[arg-type]
        ({"quantization": "int8"}, r"quantization is 'int8', and the kernels of experts cannot be quantized"),
        ({"shared_expert_gate": True}, r"shared_expert_gate is True, and there is no shared expert.*Nearest: False"),
        ({"expert_tokens": 4, "expert_capacity": 1.0}, r"expert_tokens is 4 together with model.expert_capacity = 1.0"),
        ({"router": Router(groups=3)}, r"router.groups is 3, and model.num_experts is 4.*Nearest: 2"),
        ({"router": Router(groups=2), "experts_per_token": 3}, r"experts_per_token is 3.*have 2 experts. Nearest: 2"),
        ({"expert_capacity": 0.0}, r"expert_capacity 0.0 .*Nearest: 1.25"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as caught:
        llama.llama(**{**SIZES, **options}).build()
    assert "\n" not in str(caught.value)
