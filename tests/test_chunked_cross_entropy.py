from __future__ import annotations

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.chunked_cross_entropy import chunked_cross_entropy, positions_at_a_time
from t2t.errors import UserError
from t2t.losses import cross_entropy, cross_entropy_and_gradient
from t2t.objectives import CrossEntropy
from t2t.sharding import MeshConfig, activate, assume_platform

RNG = np.random.default_rng(0)
ROWS, LENGTH, WIDTH, VOCAB = 8, 6, 5, 23
HIDDEN = RNG.normal(size=(ROWS, LENGTH, WIDTH)).astype(np.float32)
TARGETS = RNG.integers(0, VOCAB, (ROWS, LENGTH))
WEIGHTS = (RNG.random((ROWS, LENGTH)) < 0.3) * RNG.random((ROWS, LENGTH)).astype(np.float32)
PARAMS = {
    "table": RNG.normal(size=(VOCAB, WIDTH)).astype(np.float32),
    "bias": RNG.normal(size=VOCAB).astype(np.float32),
    "elsewhere": np.ones(3, np.float32),
}


def head(params, x):
    return jax.nn.gelu(x) @ params["table"].T * 2 + params["bias"]


def whole(params, hidden, loss, weights=WEIGHTS):
    sums = cross_entropy(head(params, hidden), TARGETS, weights, loss)
    return sums.objective, sums


def in_blocks(params, hidden, loss, weights=WEIGHTS):
    # What is summed and what it is divided by differ, as in a training step.
    sums = chunked_cross_entropy(lambda x: head(params, x), hidden, TARGETS, weights, loss)
    return sums.objective, sums


def both(function, loss, *weights):
    make = jax.jit(jax.value_and_grad(lambda p, h: function(p, h, loss, *weights), argnums=(0, 1), has_aux=True))
    return make(PARAMS, HIDDEN)


def assert_same(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6), one, other)


@pytest.mark.parametrize("block", [1, 7, 16, 48, 1000])
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.01, "label_smoothing": 0.1}])
def test_sums_and_gradients_are_those_of_all_logits(block, options):
    assert_same(both(in_blocks, CrossEntropy(block=block, **options)), both(whole, CrossEntropy(**options)))


def test_without_gradients_the_sums_are_the_same():
    loss = CrossEntropy(block=7, z_loss=0.01)
    assert_same(in_blocks(PARAMS, HIDDEN, loss), whole(PARAMS, HIDDEN, loss))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_rows_with_nothing_or_everything_to_predict(weight):
    weights = np.full((ROWS, LENGTH), weight, np.float32)
    assert_same(both(in_blocks, CrossEntropy(block=10), weights), both(whole, CrossEntropy(), weights))


@pytest.mark.parametrize("mesh", [{"data": 4}, {"fsdp": 2, "tensor": 2}, {"data": 2, "context": 3}, {"fsdp": 8}])
def test_a_mesh_changes_nothing(mesh):
    built = MeshConfig(**{"data": 1, **mesh}).build(jax.devices()[: int(np.prod(list(mesh.values())))])

    def on_mesh(params, hidden, loss):
        with activate(built):
            return in_blocks(params, hidden, loss)

    assert_same(both(on_mesh, CrossEntropy(block=2, z_loss=0.01)), both(whole, CrossEntropy(z_loss=0.01)))


def test_what_is_divided_by_and_scaled_reaches_the_gradient():
    for function in (in_blocks, whole):
        value = jax.grad(lambda p, f=function: 3.0 * f(p, HIDDEN, CrossEntropy(block=9))[0] / 7.0)(PARAMS)
        once = jax.grad(lambda p, f=function: f(p, HIDDEN, CrossEntropy(block=9))[0])(PARAMS)
        assert_same(value, jax.tree.map(lambda x: x * 3.0 / 7.0, once))


def test_no_array_holds_all_logits():
    step = jax.jit(jax.grad(lambda p: in_blocks(p, HIDDEN, CrossEntropy(block=6))[0]))
    text = step.lower(PARAMS).compile().as_text()
    shapes = {tuple(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]+)\]", text)}
    largest = max(np.prod(shape) for shape in shapes if VOCAB in shape)
    assert largest == 6 * VOCAB
    assert any(np.prod(shape) == ROWS * LENGTH * WIDTH for shape in shapes)


def test_blocks_without_weight_are_left_out():
    poison = np.where(WEIGHTS[..., None] > 0, HIDDEN, np.nan)  # 0 times NaN is NaN: any block that is computed shows it
    last = np.sort(WEIGHTS.ravel() > 0)[::-1]
    count = int(last.sum())
    sums = chunked_cross_entropy(
        lambda x: head(PARAMS, x), poison, TARGETS, WEIGHTS, CrossEntropy(block=ROWS * LENGTH // 48)
    )
    assert np.isfinite(sums.objective)
    assert 0 < count < ROWS * LENGTH


def test_the_gradient_of_the_formula_is_that_of_differentiation():
    loss = CrossEntropy(z_loss=0.01, label_smoothing=0.1)
    logits = RNG.normal(size=(4, 5, 11)).astype(np.float32) * 3
    targets, weights = RNG.integers(0, 11, (4, 5)), RNG.random((4, 5)).astype(np.float32)
    sums, slope = cross_entropy_and_gradient(logits, targets, weights, loss)
    wanted = jax.grad(lambda x: cross_entropy(x, targets, weights, loss).objective)(jnp.asarray(logits))
    np.testing.assert_allclose(slope, wanted, atol=1e-6)
    assert_same(sums, cross_entropy(logits, targets, weights, loss))


def test_a_block_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"block 0 \(CrossEntropy\.block\)"):
        CrossEntropy(block=0)


@pytest.mark.parametrize(
    ("kind", "words", "positions"), [("cpu", 32_128, 1024), ("tpu", 32_128, 8192), ("gpu", 250_112, 1073)]
)
def test_a_platform_has_its_own_block_within_two_gibibytes(kind, words, positions):
    with assume_platform(kind):
        assert positions_at_a_time(CrossEntropy(), words) == positions
        assert positions_at_a_time(CrossEntropy(block=7), words) == 7
    assert 8 * words * positions <= 2**31


def test_a_block_of_the_platforms_is_what_is_traced():
    hidden = jnp.zeros((1, 4096, HIDDEN.shape[-1]))
    shapes = jax.ShapeDtypeStruct(hidden.shape[:2], jnp.int32), jax.ShapeDtypeStruct(hidden.shape[:2], jnp.float32)

    def largest(kind: str) -> int:
        with assume_platform(kind):
            traced = jax.make_jaxpr(
                lambda *more: chunked_cross_entropy(partial(head, PARAMS), hidden, *more, CrossEntropy()).objective
            )(*shapes)
        return max(int(found) for found in re.findall(rf"f32\[(\d+),{len(PARAMS['table'])}\]", str(traced)))

    assert (largest("cpu"), largest("tpu")) == (1024, 4096)
