"""Products in eight bits: how far they are off, what they depend on, and what they are summed in."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from t2t.errors import UserError
from t2t.nn.initializers import Normal
from t2t.nn.linear import Linear, matmul
from t2t.nn.quantized import quantized_matmul
from t2t.plan.flops import dots
from t2t.sharding import MeshConfig

KINDS = ("int8", "fp8")
ROWS, INNER, OUT = 64, 256, 128

# A uniform step of 2 absmax / 255 has an error of step / sqrt(12); the absmax of 256 normal numbers is about 3, of 128 a little less: 0.7%. A float's
# error is uniform within half a place of its significand, which has 3 bits in E4M3 and 2 in E5M2: 2.6% and 5.2%. A product has both operands' errors.
NORMAL = {"int8": 0.0068, "fp8": 0.026}
NARROW = {"int8": 0.0068, "fp8": 0.052}


def draw(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


X, KERNEL, GRADIENT = draw(0, ROWS, INNER), draw(1, INNER, OUT), draw(2, ROWS, OUT)


@functools.cache
def compiled(kind):
    """Return x, kernel, gradient -> output, gradient of x, gradient of the kernel."""

    def both(x, kernel, gradient):
        out, back = jax.vjp(lambda x, kernel: matmul(x, kernel, quantization=kind), x, kernel)
        return out, *back(gradient)

    return jax.jit(both)


def error(found, exact):
    return np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact)


@pytest.mark.parametrize("kind", KINDS)
def test_errors_are_those_of_the_rounding(kind):
    x, kernel, gradient = (np.asarray(a, np.float64) for a in (X, KERNEL, GRADIENT))
    out, of_x, of_kernel = compiled(kind)(X, KERNEL, GRADIENT)
    forward, backward = np.hypot(NORMAL[kind], NORMAL[kind]), np.hypot(NORMAL[kind], NARROW[kind])
    assert error(out, x @ kernel) == pytest.approx(forward, rel=0.15)
    assert error(of_x, gradient @ kernel.T) == pytest.approx(backward, rel=0.15)
    if kind == "fp8":
        assert error(of_kernel, x.T @ gradient) == pytest.approx(backward, rel=0.15)
    else:  # not rounded at all
        assert error(of_kernel, x.T @ gradient) < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_scales_follow_the_values(kind):
    # Powers of two are exact in floats: a scale for each row and each column brings out the same eight bits. A cast without scales gives zeros.
    rows, inner, columns = (
        2.0 ** (np.arange(ROWS) % 40 - 20)[:, None],
        2.0 ** -(np.arange(INNER) % 30),
        2.0 ** -(np.arange(OUT) % 30),
    )
    out, of_x, _ = compiled(kind)(X, KERNEL, GRADIENT)
    scaled, _, _ = compiled(kind)(X * rows, KERNEL * columns, GRADIENT)
    np.testing.assert_array_equal(scaled, out * rows * columns)
    _, scaled_of_x, _ = compiled(kind)(X, KERNEL * inner[:, None], GRADIENT * rows)
    np.testing.assert_array_equal(scaled_of_x, of_x * rows * inner)
    assert not np.any(jnp.asarray(X * 2.0**-20, jnp.int8))
    assert not np.any(jnp.asarray(X * 2.0**-20, jnp.float8_e4m3fn))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_depends_on_no_other_row(kind):
    others = X.at[: ROWS // 2].multiply(1e4)
    out, of_x, _ = compiled(kind)(X, KERNEL, GRADIENT)
    again, again_of_x, _ = compiled(kind)(others, KERNEL, GRADIENT.at[: ROWS // 2].multiply(1e4))
    np.testing.assert_array_equal(again[ROWS // 2 :], out[ROWS // 2 :])
    np.testing.assert_array_equal(again_of_x[ROWS // 2 :], of_x[ROWS // 2 :])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_so(kind, bad):
    out, of_x, of_kernel = compiled(kind)(X.at[3, 5].set(bad), KERNEL, GRADIENT.at[7, 1].set(bad))
    assert np.isnan(out[3]).all()
    assert np.isnan(of_x[7]).all()
    assert np.isfinite(np.delete(out, 3, 0)).all()
    assert np.isfinite(np.delete(of_x, 7, 0)).all()
    assert not np.isfinite(of_kernel[5]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_give_zeros(kind):
    out, of_x, _ = compiled(kind)(X.at[3].set(0), KERNEL, GRADIENT.at[7].set(0))
    assert not np.any(out[3])
    assert not np.any(of_x[7])


@pytest.mark.parametrize("kind", KINDS)
def test_types_are_those_of_a_product_in_floats(kind):
    x, gradient = X.astype(jnp.bfloat16), GRADIENT.astype(jnp.bfloat16)
    out, of_x, of_kernel = compiled(kind)(x, KERNEL, gradient)
    assert (out.dtype, of_x.dtype, of_kernel.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    wide = np.asarray(x, np.float64) @ np.asarray(KERNEL, np.float64)
    # Rounding to bfloat16 comes on top: the output, and of "fp8" the sums before the scales are applied.
    assert error(out, wide) == pytest.approx(np.hypot(NORMAL[kind], NORMAL[kind]), rel=0.15)


@pytest.mark.parametrize(
    ("kind", "expected"), [("int8", {"int8": 2, "float32": 1}), ("fp8", {"float8": 3}), ("none", {"float32": 3})]
)
def test_products_are_in_eight_bits(kind, expected):
    counted = dots(jax.grad(lambda x, kernel: matmul(x, kernel, quantization=kind).sum(), (0, 1)), X, KERNEL)
    assert counted == {name: count * 2 * ROWS * INNER * OUT for name, count in expected.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mesh_changes_nothing(kind):
    # Rows, inner and outer dimension all divided. Largest values and sums of integers are exact in any order.
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()

    def put(array, *axes):
        return jax.device_put(array, NamedSharding(mesh, P(*axes)))

    divided = put(X, "data", "tensor"), put(KERNEL, "tensor", "fsdp"), put(GRADIENT, "data", "fsdp")
    for whole, parts in zip(compiled(kind)(X, KERNEL, GRADIENT), compiled(kind)(*divided), strict=True):
        np.testing.assert_allclose(parts, whole, rtol=1e-6, atol=5e-5)


def cast_without_scales(x, kernel):
    """Round to integers as they are, passing gradients on."""

    def cast(a):
        return a + jax.lax.stop_gradient(jnp.asarray(a, jnp.int8).astype(a.dtype) - a)

    return cast(x) @ cast(kernel)


def losses(product):
    """Return the losses of two layers that learn to be two others, in 150 steps of gradient descent."""
    x, first, second = draw(3, 64, 32), draw(4, 32, 64) / 32**0.5, draw(5, 64, 8) / 64**0.5
    targets = jnp.maximum(x @ first, 0) @ second

    def loss(params):
        return jnp.mean((product(jnp.maximum(product(x, params[0]), 0), params[1]) - targets) ** 2)

    def step(params, _):
        value, gradients = jax.value_and_grad(loss)(params)
        return [p - 0.5 * g for p, g in zip(params, gradients, strict=True)], value

    start = [draw(6, 32, 64) / 32**0.5, draw(7, 64, 8) / 64**0.5]
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, start, length=150)[1])())


def test_two_layers_learn_as_in_float32_and_without_scales_they_do_not():
    exact = losses(jnp.matmul)
    assert exact[-1] < 0.05 * exact[0]
    for kind, gap in (("int8", 0.02), ("fp8", 0.1)):
        found = losses(functools.partial(quantized_matmul, quantization=kind))
        assert np.abs(found - exact).max() < gap * exact[0], kind
        assert found[-1] < 0.06 * found[0], kind
    assert losses(cast_without_scales)[-1] > 0.3 * exact[0]


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"model.quantization is 'int8', .* qwix: pip install .\.\[quantized\]"):
        Linear(8, 8, ("embed", "mlp"), bias=False, init=Normal(1.0), quantization="int8")
    Linear(8, 8, ("embed", "mlp"), bias=False, init=Normal(1.0))
