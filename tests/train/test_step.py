from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t import models
from t2t.losses import LossSums
from t2t.nn.model import ParamSpec
from t2t.nn.moe.router import with_load
from t2t.objectives import CrossEntropy
from t2t.optim import AdamW, Constant, Muon
from t2t.optim.paths import path_name
from t2t.sharding import MeshConfig, activate
from t2t.train.guard import Guard, Judge
from t2t.train.state import abstract_state, create_state, state_shardings
from t2t.train.step import _gradients, make_step
from t2t.types import Batch, Tokens

VOCAB, ROWS = 64, 8
CONFIGS = {
    "encoder_decoder": models.t5.t5(num_layers=2, d_model=16, num_heads=8, d_ff=32, vocab_size=VOCAB),
    "decoder": models.gpt.gpt(num_layers=2, d_model=16, num_heads=8, max_length=16, vocab_size=VOCAB, dropout=0.0),
    "encoder": models.bert.bert(num_layers=2, d_model=16, num_heads=8, max_length=16, vocab_size=VOCAB, dropout=0.0),
}


def _tokens(rng: np.random.Generator, length: int) -> Tokens:
    """Rows packed with two examples of random lengths and padding behind them."""
    segments, positions = np.zeros((2, ROWS, length), np.int32)
    for row in range(ROWS):
        first, second = rng.integers(2, length // 2, 2)
        segments[row, :first], segments[row, first : first + second] = 1, 2
        positions[row, :first], positions[row, first : first + second] = range(first), range(second)
    ids = np.where(segments > 0, rng.integers(3, VOCAB, segments.shape), 0).astype(np.int32)
    return Tokens(ids=ids, positions=positions, segments=segments)


@functools.cache
def batch(kind: str) -> Batch:
    rng = np.random.default_rng(0)
    first, second = _tokens(rng, 16), _tokens(rng, 12)
    predicted = second if kind == "encoder_decoder" else first
    # Rows weigh differently, so that a mean of means would differ from the mean.
    weights = (predicted.segments > 0) * rng.integers(0, 2, (ROWS, 1)) * rng.random(predicted.ids.shape)
    return Batch(
        encoder=None if kind == "decoder" else first,
        decoder={"encoder": None, "decoder": first, "encoder_decoder": second}[kind],
        targets=rng.integers(3, VOCAB, predicted.ids.shape).astype(np.int32),
        weights=weights.astype(np.float32),
    )


def run(config, *, optimizer=None, mesh=None, microbatches=1, steps=3, loss=None):
    optimizer = optimizer or AdamW(schedule=Constant(peak=1e-2))
    mesh = (mesh or MeshConfig(data=1)).build(jax.devices()[: 1 if mesh is None else 8])
    model = config.build()
    transform = optimizer.build(model.specs)
    shardings = state_shardings(model, transform, mesh)
    state = jax.jit(lambda: create_state(model, transform, 0), out_shardings=shardings)()
    step = make_step(
        model,
        transform,
        loss or CrossEntropy(z_loss=1e-3),
        learning_rate=optimizer.schedule.build(),
        microbatches=microbatches,
    )
    step = jax.jit(step, out_shardings=(shardings, None), donate_argnums=0)
    losses = []
    with activate(mesh):
        for _ in range(steps):
            state, metrics = step(state, batch(config.kind))
            losses.append({name: float(value) for name, value in metrics.items()})
    return state, losses


def close(one, other, tolerance=2e-4):
    for path, left in jax.tree_util.tree_leaves_with_path(one):
        right = functools.reduce(lambda tree, key: tree[key.key], path, other)
        np.testing.assert_allclose(left, right, atol=tolerance, rtol=tolerance, err_msg=str(path))


@functools.cache
def reference(kind):
    state, losses = run(CONFIGS[kind])
    return jax.device_get(state.params), losses


@pytest.mark.parametrize(
    ("kind", "mesh"),
    [
        ("encoder_decoder", MeshConfig(data=2, fsdp=2, tensor=2)),
        ("decoder", MeshConfig(data=1, fsdp=2, context=2, tensor=2)),
        ("encoder", MeshConfig(data=1, fsdp=8)),
    ],
    ids=str,
)
def test_sharded_equals_unsharded(kind, mesh):
    params, losses = reference(kind)
    state, sharded = run(CONFIGS[kind], mesh=mesh)
    for one, other in zip(losses, sharded, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    close(params, state.params)


@pytest.mark.slow
def test_muon_on_divided_matrices_equals_muon_on_whole_ones():
    """The orthogonal update of a matrix needs all of its rows, which are on different devices."""
    muon = Muon(schedule=Constant(peak=1e-3))
    whole, losses = run(CONFIGS["decoder"], optimizer=muon)
    divided, sharded = run(CONFIGS["decoder"], optimizer=muon, mesh=MeshConfig(data=1, fsdp=4, tensor=2))
    assert [one["loss"] for one in losses] == pytest.approx([one["loss"] for one in sharded], rel=1e-5)
    close(jax.device_get(whole.params), divided.params)
    moments = {path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(divided.opt_state)}
    matrices = [x for path, x in moments.items() if "mu/" in path and "mlp" in path and path.endswith("kernel")]
    assert len(matrices) >= 2
    assert all(x.addressable_shards[0].data.size == x.size // 8 for x in matrices)


def test_state_is_divided_over_the_mesh():
    state, _ = run(CONFIGS["decoder"], mesh=MeshConfig(data=1, fsdp=4, tensor=2), steps=1)
    kernel = max(jax.tree.leaves(state.params), key=lambda x: x.size)
    assert kernel.addressable_shards[0].data.size == kernel.size // 8
    moments = [x for x in jax.tree.leaves(state.opt_state) if x.shape == kernel.shape]
    assert len(moments) >= 2
    assert all(x.addressable_shards[0].data.size == x.size // 8 for x in moments)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("microbatches", [4])
def test_microbatches_do_not_change_the_loss(kind, microbatches):
    params, losses = reference(kind)
    state, parts = run(CONFIGS[kind], microbatches=microbatches)
    for one, other in zip(losses, parts, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    close(params, state.params)


def test_a_batch_is_learned():
    _, losses = run(CONFIGS["decoder"], steps=60)
    assert losses[-1]["loss"] < 0.3 * losses[0]["loss"]


@pytest.mark.slow
def test_an_empty_batch_changes_nothing_but_the_count():
    model = CONFIGS["decoder"].build()
    transform = optax.sgd(0.1)
    state = create_state(model, transform, 0)
    empty = jax.tree.map(jnp.zeros_like, batch("decoder"))
    after, metrics = make_step(model, transform, CrossEntropy(), learning_rate=lambda step: jnp.float32(0.1))(
        state, empty
    )
    assert float(metrics["loss"]) == 0
    assert int(after.step) == 1
    close(jax.device_get(state.params), after.params, 0)


def test_dropout_depends_on_the_step_and_the_seed_alone():
    config = replace(CONFIGS["decoder"], dropout=0.5)
    _, once = run(config, steps=2)
    _, again = run(config, steps=2)
    assert once == again
    assert reference("decoder")[1][:2] != once


def test_the_abstract_state_is_that_of_the_real_one():
    model = CONFIGS["encoder"].build()
    transform = AdamW().build(model.specs)
    shardings = state_shardings(model, transform, MeshConfig().build())
    abstract = abstract_state(model, transform, shardings)
    real = create_state(model, transform, 1)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(lambda x: (x.shape, x.dtype), real)


def test_entries_of_an_update_that_are_not_finite_are_left_out_though_the_gradients_are():
    config = CONFIGS["decoder"]
    model = config.build()
    name = "decoder/layers/mlp/up/kernel"

    def update(grads, state, params=None):
        return jax.tree_util.tree_map_with_path(
            lambda path, grad: grad / 0 if path_name(path) == name else grad + 1e-3,
            grads,
        ), state

    transform = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    state = create_state(model, transform, 0)
    step = jax.jit(make_step(model, transform, CrossEntropy(), learning_rate=Constant(peak=1.0).build()))
    after, metrics = step(state, batch("decoder"))
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["grad_norm"])
    found = Judge(Guard(), model.specs).bad_steps([1], [jax.device_get(metrics)])
    assert found[0].what == f"the update of {name}, layer 0 is not finite"
    assert found[0].left_out == "its non-finite entries were"
    assert int(after.health.skipped) == 1
    old, new = (jax.tree_util.tree_leaves_with_path(params) for params in (state.params, after.params))
    for (path, before), (_, now) in zip(old, new, strict=True):
        same = np.array_equal(before, now)
        assert np.isfinite(now).all()
        assert same == (path_name(path) == name)


@dataclass(frozen=True, kw_only=True)
class Doubled(CrossEntropy):
    """Gradients at twice the parameters, which are kept: an objective with its own way to compute them."""

    def gradients(self, loss, params, batch, key):
        assert set(params) == {"kernel"}
        grads, _ = super().gradients(loss, params, batch, key)
        return super().gradients(loss, jax.tree.map(lambda p, g: 2 * p + 0 * g, params, grads), batch, key)


def test_an_own_way_to_compute_gradients_does_not_see_the_load_of_experts():
    specs = {
        "bias": ParamSpec((2,), jnp.float32, (None,), False, load_rate=0.1),
        "kernel": ParamSpec((2,), jnp.float32, (None,), True),
    }
    params = {"bias": jnp.zeros(2), "kernel": jnp.array([1.0, -3.0])}

    def loss(params, rows, key):
        # The load of the experts is that of the given kernel, which the objective changes.
        y = with_load(params["kernel"] * rows, params["bias"], jnp.abs(params["kernel"]) + 5)
        return jnp.sum(y**2), LossSums(objective=jnp.sum(y**2), loss=jnp.sum(y), weight=jnp.float32(1.0))

    rows, load = jnp.array([1.0, 2.0]), np.array([6.0, 8.0])
    for objective, factor in ((CrossEntropy(), 1), (Doubled(), 2)):
        grads, total = _gradients(objective, specs, loss, params, rows, jax.random.key(0))
        np.testing.assert_allclose(grads["bias"], load)
        np.testing.assert_allclose(grads["kernel"], factor * 2 * params["kernel"] * rows**2)
        assert float(total.loss) == factor * float(jnp.sum(params["kernel"] * rows))
