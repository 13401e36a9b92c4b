"""Windows and sparsity patterns by blocks: equal to attention with the whole mask, and with the cost of the blocks alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.models import gpt
from t2t.models.config import LayerOptions
from t2t.nn.attention import attention
from t2t.nn.attention.block_sparse import layout_of
from t2t.nn.attention.request import Request
from t2t.nn.masks import Mask
from t2t.nn.sparse import Sparse
from t2t.plan import flops
from t2t.sharding import MeshConfig, activate
from tests.models.tiny import config

B, L, H, K, D = 2, 150, 4, 2, 8
LENGTHS = ((61, 80), (150,))
SEGMENTS, POSITIONS = np.zeros((2, B, L), np.int32)
for number, parts in enumerate(LENGTHS):
    at = 0
    for segment, size in enumerate(parts, 1):
        SEGMENTS[number, at : at + size], POSITIONS[number, at : at + size] = segment, np.arange(size)
        at += size
INDEX = np.arange(L)[None]
STRIDED, FIXED = Sparse(stride=8), Sparse(kind="fixed", stride=16, summaries=3)


def inputs(length=L):
    keys = jax.random.split(jax.random.key(0), 4)
    return [jax.random.normal(key, (B, length, heads, D)) for key, heads in zip(keys, (H, K, K, H), strict=True)]


def patterned(sparse):
    at = jnp.asarray(POSITIONS)
    return Mask(
        queries=SEGMENTS, keys=SEGMENTS, index=at, key_index=at, causal=True, sparse=sparse, self_attention=True
    )


def windowed(window, **options):
    return Mask(queries=SEGMENTS, keys=SEGMENTS, index=INDEX, window=window, self_attention=True, **options)


MASKS = {
    "window": windowed(9, causal=True),
    "window of one": windowed(1, causal=True),
    "both sides": windowed(9),
    "both sides, exact": windowed(10, exact_window=True),
    **{f"strided, {part}": patterned(Sparse(stride=48, part=part)) for part in ("both", "local", "far")},
    **{
        f"fixed, {part}": patterned(Sparse(kind="fixed", stride=48, summaries=5, part=part))
        for part in ("both", "local", "far")
    },
    "fixed, odd": patterned(Sparse(kind="fixed", stride=37, summaries=2)),
}


def paper(sparse, i):
    """Return what position i sees (Child et al. 2019, section 4.3)."""
    stride, before = sparse.stride, range(i + 1)
    if sparse.kind == "strided":
        local, far = set(range(max(0, i - stride), i + 1)), {j for j in before if (i - j) % stride == 0}
    else:
        ends = range(stride - sparse.summaries, stride)
        local, far = {j for j in before if j // stride == i // stride}, {j for j in before if j % stride in ends}
    return {"both": local | far, "local": local, "far": far}[sparse.part]


@pytest.mark.parametrize("name", [name for name in MASKS if "strided" in name or "fixed" in name])
def test_patterns_are_those_of_the_paper(name):
    mask = MASKS[name]
    seen = np.asarray(mask.dense())[:, 0]
    for i in range(150):
        assert set(np.flatnonzero(seen[1, i])) == paper(mask.sparse, i)
    # Packed, each example has its own periods.
    for i in range(80):
        assert set(np.flatnonzero(seen[0, 61 + i]) - 61) == paper(mask.sparse, i)
    assert not seen[0, 141:].any()


@pytest.mark.parametrize("block", [16, 64])
@pytest.mark.parametrize("name", MASKS)
def test_blocks_equal_the_whole_mask_with_gradients(name, block):
    *given, target = inputs()
    sinks = jnp.linspace(-1.0, 1.0, H)
    request = Request(
        q=given[0], k=given[1], v=given[2], mask=MASKS[name], bias=None, dropout=0.0, key=None, block=block
    )
    layout = layout_of(request)
    assert layout is not None
    assert layout.keys < L

    def loss(given, backend):
        *qkv, sinks = given
        out = attention(*qkv, mask=MASKS[name], scale=0.5, sinks=sinks, backend=backend, block=block)
        return jnp.sum(out * target), out

    found, wanted = (
        jax.jit(jax.value_and_grad(functools.partial(loss, backend=backend), has_aux=True))((*given, sinks))
        for backend in ("chunked", "einsum")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)


def test_dropout_is_what_the_key_says():
    q, k, v, _ = inputs()
    call = functools.partial(attention, q, k, v, mask=MASKS["window"], dropout=0.5, backend="chunked", block=16)
    key = jax.random.key(3)
    np.testing.assert_array_equal(call(dropout_key=key), call(dropout_key=key))
    assert not np.array_equal(call(dropout_key=key), call(dropout_key=jax.random.key(4)))
    mean = jnp.mean(jax.lax.map(lambda key: call(dropout_key=key), jax.random.split(key, 1000)), axis=0)
    np.testing.assert_allclose(mean, call(), atol=0.3)


def test_on_a_mesh_the_result_is_the_same():
    *given, _ = inputs()
    run = functools.partial(attention, mask=MASKS["fixed, both"], backend="chunked", block=16)
    with activate(MeshConfig(data=2, tensor=2).build(jax.devices()[:4])):
        found = jax.jit(run)(*given)
    np.testing.assert_allclose(found, run(*given), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"window": 128}, 192),  # three blocks of 64
        (
            {"sparse": Sparse(stride=128)},
            23 * 16,
        ),  # 9 blocks of 16 back to the stride, and one for each later multiple of it
        ({"sparse": Sparse(kind="fixed", stride=128, summaries=8)}, 3 * 64 + 2048 * 8 // 128),
    ],
    ids=["window", "strided", "fixed"],
)
def test_the_cost_is_that_of_the_blocks(options, keys):
    length = 2048
    at = jnp.arange(length)[None]
    ids = jnp.ones((1, length), jnp.int32)
    mask = Mask(queries=ids, keys=ids, index=at, key_index=at, causal=True, self_attention=True, **options)
    q, k = (jax.ShapeDtypeStruct((1, length, heads, D), jnp.float32) for heads in (H, K))

    def products(backend):
        return flops.dots(functools.partial(attention, mask=mask, backend=backend), q, k, k).total()

    pair = 2 * 2 * D * H  # logits and weighted sum
    assert products("einsum") == pair * length * length
    assert products("chunked") == pair * length * keys


def test_gpt3_alternates_dense_and_banded_layers():
    settings = gpt.gpt3("125m", band=256)
    assert [layer.mixer.window for layer in settings.pattern_of(settings.decoder)] == [None, 256]
    assert gpt.gpt3("125m").decoder.pattern == ()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sparse(kind="strode"), r"unknown kind 'strode' \(model.sparse.kind\).*Nearest: strided"),
        (lambda: Sparse(part="farr"), r"unknown part 'farr' \(model.sparse.part\).*Nearest: far"),
        (
            lambda: Sparse(kind="fixed", stride=4, summaries=5),
            r"summaries is 5, more than model.sparse.stride = 4. Nearest: 4",
        ),
        (lambda: config("bert", pattern=(LayerOptions(sparse=STRIDED),)), r"encoder see later tokens. Nearest: window"),
        (lambda: config("prefix", pattern=(LayerOptions(sparse=STRIDED),)), r"prefix mask .*Nearest: causal"),
        (lambda: config("gpt", pattern=(LayerOptions(sparse=FIXED, window=4),)), r"a window of 4 too. Nearest: one of"),
        (
            lambda: config("gpt", pattern=(LayerOptions(sparse=FIXED),)).check_run(packing=True, context=2),
            r"rows cannot be divided \(--mesh.context 2\). Nearest: 1",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
