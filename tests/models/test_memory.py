"""What a step of whole models keeps for the backward pass, and what the compiler asks for, as rows get longer."""

import math

import jax
import jax.numpy as jnp
import pytest

from t2t import models
from t2t.objectives import CrossEntropy
from t2t.types import Batch, Tokens

SIZES = {"num_layers": 2, "d_model": 32, "num_heads": 4, "d_ff": 64, "vocab_size": 64, "attention_block": 32}
LENGTHS = (512, 1024)


def gpt(**changes):
    return models.gpt.gpt(max_length=LENGTHS[-1], **SIZES, **changes).build()


def prefix(**changes):
    return models.gpt.gpt(max_length=LENGTHS[-1], mask="prefix", **SIZES, **changes).build()


def t5(**changes):
    return models.t5.t5(**SIZES, **changes).build()


def bert(**changes):
    return models.bert.bert(max_length=LENGTHS[-1], **SIZES, **changes).build()


def llama(**changes):
    return models.llama.llama(num_kv_heads=2, window=100, **SIZES, **changes).build()


def batch(model, length):
    ids = jax.ShapeDtypeStruct((2, length), jnp.int32)
    tokens = Tokens(ids=ids, positions=ids, segments=ids, prefix=ids)
    weights = jax.ShapeDtypeStruct((2, length), jnp.float32)
    kind = model.config.kind
    return Batch(
        encoder=None if kind == "decoder" else tokens,
        decoder=None if kind == "encoder" else tokens,
        targets=ids,
        weights=weights,
    )


def objective(model, dropped):
    def of(params, batch, key):
        return CrossEntropy().loss(model, params, batch, key if dropped else None).objective

    return of


def arguments(model, length):
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(model.init, key), batch(model, length), key


def kept(model, length, dropped):
    """Return the bytes that the forward pass keeps."""
    params, rows, key = arguments(model, length)
    of = objective(model, dropped)
    found = jax.eval_shape(lambda params, rows, key: jax.vjp(lambda p: of(p, rows, key), params)[1], params, rows, key)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(found))


def asked(model, length):
    """Return the bytes of working memory that the compiler asks for."""
    params, rows, key = arguments(model, length)
    step = jax.jit(jax.grad(objective(model, True)))
    return step.lower(params, rows, key).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "dots", "dots_no_batch", "full"])
@pytest.mark.parametrize(
    ("make", "dropout"), [(gpt, 0.1), (prefix, 0.0), (t5, 0.0), (t5, 0.1), (bert, 0.0), (llama, 0.0)]
)
def test_what_chunked_attention_keeps_is_linear_in_the_length(make, dropout, remat):
    model = make(attention="chunked", remat=remat, dropout=dropout)
    short, long = (kept(model, length, bool(dropout)) for length in LENGTHS)
    assert short < long < 2.05 * short


@pytest.mark.slow
@pytest.mark.parametrize("make", [gpt, t5])
@pytest.mark.parametrize("remat", ["none", "dots"])
def test_memory_that_the_compiler_asks_for_is_linear_in_the_length(make, remat):
    model = make(attention="chunked", remat=remat, dropout=0.0)
    short, long = (asked(model, length) for length in LENGTHS)
    assert short < long < 2.05 * short


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_what_einsum_keeps_is_quadratic(remat):
    model = gpt(attention="einsum", remat=remat, dropout=0.0)
    short, long = (kept(model, length, False) for length in LENGTHS)
    assert long > 3 * short
