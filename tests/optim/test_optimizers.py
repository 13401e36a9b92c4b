import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.config import from_json, to_json
from t2t.errors import UserError
from t2t.optim import Adafactor, AdamW, Constant, Cosine, Optax, StableAdamW
from t2t.optim.norms import clip_by_norm
from tests.optim.stacked_toy import STACKED, random_like, run, spec, unstack

RATE = Constant(peak=0.1)


def test_adamw_equals_the_papers_algorithm_with_decay_where_the_spec_says():
    specs = {"w": spec((3, 4), "embed", "mlp"), "b": spec((4,), "mlp", decay=False)}
    config = AdamW(schedule=Cosine(peak=0.1, warmup=2, steps=9), b1=0.8, b2=0.9, weight_decay=0.3, clip_norm=None)
    params = random_like(specs, 0)
    gradients = [random_like(specs, seed) for seed in range(1, 6)]
    got, _ = run(config.build(specs), params, gradients)
    rate = config.schedule.build()
    for name, decay in (("w", 0.3), ("b", 0.0)):
        x, m, v = np.asarray(params[name], np.float64), 0.0, 0.0
        for t, g in enumerate((np.asarray(g[name], np.float64) for g in gradients), start=1):
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
            step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-8) + decay * x
            x = x - float(rate(t - 1)) * step
        np.testing.assert_allclose(got[name], x, rtol=1e-4, atol=1e-6)


def test_stable_adamw_equals_the_papers_algorithm_for_each_layer():
    specs = {"w": spec((2, 3, 4), "layers", "embed", "mlp"), "b": spec((4,), "mlp", decay=False)}
    config = StableAdamW(schedule=Cosine(peak=0.1, warmup=2, steps=9), b1=0.8, b2=0.9, weight_decay=0.3)
    params = random_like(specs, 0)
    gradients = [random_like(specs, seed, scale) for seed, scale in ((1, 0.1), (2, 5.0), (3, 1.0), (4, 40.0))]
    got, _ = run(config.build(specs), params, gradients)
    rate = config.schedule.build()
    shrunk = []
    for name, layer, decay in (("w", 0, 0.3), ("w", 1, 0.3), ("b", slice(None), 0.0)):
        x, v, u = np.asarray(params[name][layer], np.float64), 0.0, 0.0
        for t, gradient in enumerate(gradients, start=1):
            g = np.asarray(gradient[name][layer], np.float64)
            b1, b2 = 0.8 * (1 - 0.8 ** (t - 1)) / (1 - 0.8**t), 0.9 * (1 - 0.9 ** (t - 1)) / (1 - 0.9**t)
            v, u = b1 * v + (1 - b1) * g, b2 * u + (1 - b2) * g**2
            size = np.sqrt(np.mean(g**2 / np.maximum(u, 1e-16)))
            shrunk.append(size > 1)
            now = float(rate(t - 1)) / max(1.0, size)
            x = x - now * decay * x - now * v / (np.sqrt(u) + 1e-8)
        np.testing.assert_allclose(got[name][layer], x, rtol=1e-4, atol=1e-6)
    assert 0 < sum(shrunk) < len(shrunk), "steps of both kinds"


def test_clipping_scales_all_gradients_by_one_norm():
    specs = {"a": spec((2,), "embed"), "b": spec((2,), "embed")}
    gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([0.0, 4.0])}
    config = Optax(name="optax.sgd", schedule=Constant(peak=1.0), clip_norm=1.0)
    transform = config.build(specs)
    updates, _ = transform.update(gradients, transform.init(gradients), gradients)
    np.testing.assert_allclose(updates["a"], [-0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [0, -0.8], rtol=1e-6)
    for size in (0.01, 0.199, 0.201, 7.0):
        given = jax.tree.map(lambda g, size=size: g * size, gradients)
        ours, optaxs = (
            rule.update(given, optax.EmptyState())[0]
            for rule in (clip_by_norm(1.0, specs), optax.clip_by_global_norm(1.0))
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, optaxs)
    small = jax.tree.map(lambda g: g / 100, gradients)
    updates, _ = transform.update(small, transform.init(small), small)
    np.testing.assert_allclose(updates["b"], [0, -0.04], rtol=1e-6)


def test_optax_by_name_is_that_optimizer_with_the_decay_mask():
    specs = {"w": spec((3, 4), "embed", "mlp"), "b": spec((4,), "mlp", decay=False)}
    config = Optax(name="optax.lion", arguments={"b1": 0.8, "weight_decay": 0.5}, schedule=RATE)
    params, gradients = random_like(specs, 0), [random_like(specs, 1)]
    got, _ = run(config.build(specs), params, gradients)
    want, _ = run(optax.lion(0.1, b1=0.8, weight_decay=0.5, mask={"w": True, "b": False}), params, gradients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want)


def test_trust_ratios_are_taken_by_layer():
    config = Optax(name="optax.lamb", schedule=RATE)
    params, gradients = random_like(STACKED, 0), [random_like(STACKED, 1)]
    got, _ = run(config.build(STACKED), params, gradients)
    listed, _ = run(config.build(unstack(STACKED, STACKED)), unstack(params, STACKED), [unstack(gradients[0], STACKED)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), unstack(got, STACKED), listed)
    together, _ = run(dataclasses.replace(config, per_layer=False).build(STACKED), params, gradients)
    assert not np.allclose(together["encoder"]["mlp"], got["encoder"]["mlp"], rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Optax(name="optax.loin"), r"unknown optimizer 'optax.loin'. Nearest: optax.lion"),
        (Optax(name="os.system"), r"'os.system' is neither in Optax nor in one of your own modules \(--import\)"),
        (Optax(name="this.adam"), r"'this.adam' is neither in Optax"),
        (Optax(name="..adam"), r"'..adam' is neither in Optax"),
        (Optax(name="lion"), r"unknown optimizer 'lion'. Nearest: optax.lion"),
        (Optax(name="optax.clip_by_global_norm"), "takes no learning_rate"),
        (Optax(name="optax.adam", arguments={"b3": 0.9}), r"optax.adam has no argument 'b3'. Nearest: .*b1"),
        (Optax(name="optax.adam", arguments={"learning_rate": 0.9}), "optimizer.schedule"),
        (Optax(name="optax.adam", arguments={"b1": "high"}), "optax.adam cannot be used"),
        (Optax(name="optax.lbfgs"), "optax.lbfgs cannot be used"),
    ],
)
def test_bad_configurations_are_refused_in_one_line(config, message):
    with pytest.raises(UserError, match=message) as caught:
        config.build(STACKED)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "config", [AdamW(), Adafactor(), Optax(name="optax.lion", arguments={"b1": 0.5, "mu_dtype": None})]
)
def test_configurations_come_back_from_json(config):
    assert from_json(to_json(config)) == config
