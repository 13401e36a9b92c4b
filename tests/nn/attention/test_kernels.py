"""TPU kernels, interpreted, against einsum: outputs and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.attention import attention
from t2t.nn.initializers import Normal
from t2t.nn.masks import Mask
from t2t.nn.parameters import Definition
from t2t.nn.relative import RelativeBias
from t2t.sharding import MeshConfig, activate, interpreted
from tests.models.tiny import quick_jit

B, L, H, D = 2, 200, 4, 8
"""Two blocks of 128, the second in part padding."""


def marks(*lengths):
    """Return a row of segments of these lengths, padded."""
    ids = np.repeat(np.arange(1, len(lengths) + 1), lengths)
    return np.pad(ids, (0, L - len(ids)))


SEGMENTS = jnp.asarray([marks(90, 70, 25), marks(5, 195)])
PREFIX = np.zeros((B, L), np.int32)
PREFIX[0, :80] = PREFIX[0, 90:92] = PREFIX[0, 160:185] = PREFIX[1, 5:150] = (
    1  # some, a whole segment, none, over a block's edge
)
CAUSAL = {"index": jnp.arange(L)[None], "causal": True, "self_attention": True}
MASKS = {
    "encoder": Mask(queries=SEGMENTS, keys=SEGMENTS, self_attention=True),
    "window": Mask(queries=SEGMENTS, keys=SEGMENTS, window=37, **CAUSAL),
    "prefix": Mask(queries=SEGMENTS, keys=SEGMENTS, prefix=jnp.asarray(PREFIX), **CAUSAL),
    # segments 1 to 9: most of the queries of the second row see nothing
    "cross": Mask(queries=jnp.arange(130)[None] // 13 * jnp.asarray([[1], [2]]), keys=SEGMENTS),
}


def inputs(queries, kv_heads=H, batch=B):
    keys = jax.random.split(jax.random.key(0), 4)
    shapes = ((queries, H), (L, kv_heads), (L, kv_heads), (queries, H))
    return [
        jax.random.normal(key, (batch, length, heads, D)) for key, (length, heads) in zip(keys, shapes, strict=True)
    ]


def results(backend, mask, arrays, target, bias=None):
    """Return (output, gradients of the arrays)."""

    def run(arrays):
        def loss(arrays):
            own = bias if not callable(bias) else functools.partial(bias, arrays[3])
            out = attention(*arrays[:3], mask=mask, bias=own, scale=0.4, backend=backend, block=128)
            return jnp.sum(out * target), out

        (_, out), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
        return out, gradients

    with interpreted():
        return quick_jit(run)(arrays)


def check_equal(backend, *given):
    """Compare a backend with einsum; return the backend's."""
    expected, ours = results("einsum", *given), results(backend, *given)
    compare(expected, ours)
    return ours


def compare(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kv_heads"), [("window", 1), ("prefix", 2), ("cross", 4)])
def test_splash_equals_einsum(name, kv_heads):
    mask = MASKS[name]
    *arrays, target = inputs(mask.queries.shape[1], kv_heads)
    ours = check_equal("splash", mask, arrays, target)
    unseen = ~np.asarray(jnp.any(mask.dense(), axis=-1)[:, 0])
    assert unseen.any()
    for blank in (ours[0], ours[1][0]):  # outputs, gradients of queries
        assert float(jnp.abs(blank[unseen]).max()) == 0.0
        assert float(jnp.abs(blank[~unseen]).max()) > 0.0
    for gradient in ours[1][1:]:  # of keys and of values
        assert float(jnp.abs(gradient[SEGMENTS == 0]).max()) == 0.0


def relative(table, start, queries, *, bidirectional):
    module = RelativeBias(H, buckets=8, max_distance=50, bidirectional=bidirectional, init=Normal(1.0))
    return Definition(module).bind({"table": table}).block(start, queries.shape[1], L)


def test_flash_equals_einsum_with_a_relative_bias_and_the_gradient_of_its_table():
    *arrays, target = inputs(L)
    arrays.append(jax.random.normal(jax.random.key(1), (8, H)))
    bias = functools.partial(relative, bidirectional=True)
    _, gradients = check_equal("flash", MASKS["encoder"], arrays, target, bias)
    assert float(jnp.abs(gradients[3]).max()) > 0.1


def test_flash_equals_einsum_across():
    mask = MASKS["cross"]
    *arrays, target = inputs(mask.queries.shape[1])
    check_equal("flash", mask, arrays, target)


@pytest.mark.slow
def test_flash_equals_einsum_with_a_bias_for_each_row():
    mask = MASKS["cross"]
    *arrays, target = inputs(mask.queries.shape[1])
    arrays.append(jax.random.normal(jax.random.key(1), (B, H, mask.queries.shape[1], L)))
    check_equal("flash", mask, arrays, target, lambda bias, start, rows: bias)


@pytest.mark.parametrize("backend", ["splash", "flash"])
def test_on_a_mesh_each_device_has_its_rows_and_heads(backend):
    segments = jnp.concatenate([SEGMENTS, SEGMENTS[::-1]])
    mask = Mask(queries=segments, keys=segments, **CAUSAL)
    *arrays, target = inputs(L, 2, batch=4)
    bias = None
    if backend == "flash":
        arrays.append(jax.random.normal(jax.random.key(1), (8, H)))
        bias = functools.partial(relative, bidirectional=False)
    expected = results("einsum", mask, arrays, target, bias)
    with activate(MeshConfig(data=2, fsdp=2, tensor=2).build()):
        ours = results(backend, mask, arrays, target, bias)
    compare(expected, ours)
