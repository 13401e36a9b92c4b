"""Temporary memory of forward and backward pass as the compiler tells it, over rows twice and four times as long."""

import jax
import jax.numpy as jnp
import pytest

from t2t.nn.attention import attention
from t2t.nn.initializers import Normal
from t2t.nn.masks import Mask
from t2t.nn.parameters import Definition
from t2t.nn.relative import RelativeBias

H, D = 4, 8
LENGTHS = (512, 1024, 2048)


def temporary(backend, length, biased):
    definition = Definition(RelativeBias(H, buckets=32, max_distance=128, bidirectional=True, init=Normal(1.0)))
    table = jax.ShapeDtypeStruct((32, H), jnp.float32)
    rows = jax.ShapeDtypeStruct((1, length, H, D), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)

    def loss(table, q, k, v, ids):
        module = definition.bind({"table": table})
        bias = (lambda start, queries: module.block(start, queries.shape[1], length)) if biased else None
        mask = Mask(queries=ids, keys=ids, self_attention=True)
        return jnp.sum(attention(q, k, v, mask=mask, bias=bias, backend=backend, block=64) ** 2)

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))
    return step.lower(table, rows, rows, rows, ids).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("biased", [True, False], ids=["relative bias", "no bias"])
def test_chunked_memory_is_linear_in_the_length_and_einsums_quadratic(biased):
    short, middle, long = (temporary("chunked", length, biased) for length in LENGTHS)
    assert middle < 2.2 * short
    assert long < 2.2 * middle
    if biased:
        whole = [temporary("einsum", length, biased) for length in LENGTHS[1:]]
        assert 3.5 < whole[1] / whole[0] < 4.5
        assert long < whole[1] / 8
