"""Transient-global attention against its definition, computed one token at a time, and what it does not compute."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.models.longt5 import longt5
from t2t.nn.attention.transient_global import TransientGlobalConfig, block_sums, blocks_of
from t2t.nn.dropout import Keys
from t2t.nn.initializers import Normal
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.parameters import Definition
from t2t.nn.relative import bucket
from tests.models.tiny import quick_jit

WIDTH, HEADS, SIZE = 6, 2, 3
OPTIONS = BuildOptions(width=WIDTH, kernel_init=lambda inputs, **_: Normal(0.5), bidirectional=True)


def config(**changes):
    sizes = {"num_heads": HEADS, "head_dim": SIZE, "scaled": False, "positions": "relative"}
    return TransientGlobalConfig(
        **{**sizes, "buckets": 8, "max_distance": 12, "window": 4, "global_block": 3, **changes}
    )


def by_definition(segments, size):
    """Return the (segment, number) of each token's block, None if it has none."""
    found = []
    for segment in segments:
        count = int(np.sum(segments == segment)) // size
        place = sum(1 for other, _ in found if other == segment)
        found.append((segment, min(place // size, count - 1) if segment and count else None))
    return [(segment, number) if number is not None else None for segment, number in found]


@pytest.mark.parametrize("size", [1, 2, 3, 4, 20])
def test_blocks_are_counted_in_each_segment_and_the_last_takes_the_rest(size):
    rows = np.array([[1] * 7 + [2] * 2 + [3] * 5 + [0] * 2, [1] * 3 + [2] * 13, [0] * 16])
    blocks, owners = blocks_of(rows, size)
    assert owners.shape == (3, max(16 // size, 1))
    for row, own, owner in zip(rows, np.asarray(blocks), np.asarray(owners), strict=True):
        wanted = by_definition(row, size)
        numbers = {block: i for i, block in enumerate(dict.fromkeys(block for block in wanted if block))}
        assert own.tolist() == [len(owner) if block is None else numbers[block] for block in wanted]
        assert owner.tolist() == [segment for segment, _ in numbers] + [0] * (len(owner) - len(numbers))


def test_sums_are_those_of_blocks():
    x = np.random.default_rng(0).normal(size=(1, 5, 2)).astype(np.float32)
    found = np.asarray(block_sums(jnp.asarray(x), jnp.array([[0, 0, 2, 1, 1]]), 2))
    np.testing.assert_allclose(found, np.stack([x[:, :2].sum(1), x[:, 3:].sum(1)], axis=1), atol=1e-6)


def layer(settings):
    """Return the layer and its tables with random parameters, as functions of a row."""
    tables = {name: Definition(table.build(OPTIONS)) for name, table in settings.tables().items()}
    parts = {"layer": Definition(settings.build(OPTIONS)), **tables}
    random = np.random.default_rng(1)
    params = {
        name: jax.tree.map(lambda spec: jnp.asarray(random.normal(size=spec.shape), jnp.float32), part.specs)
        for name, part in parts.items()
    }

    def apply(x, segments, params=params, key=None):
        built = {name: part.bind(params[name]) for name, part in parts.items()}
        mixer = built.pop("layer")
        context = Context(segments=segments, bidirectional=True, keys=Keys(key))
        return mixer(x, replace(context, inputs=settings.prepare(context, built)))[0]

    return params, apply


def one_by_one(settings, params, x, segments):
    """Return the output of a row by the definition."""
    own, radius = params["layer"], settings.window // 2
    kernel = {name: np.asarray(own[name]["kernel"]) for name in ("query", "key", "value", "out")}
    blocks = by_definition(segments, settings.global_block)
    names = list(dict.fromkeys(block for block in blocks if block))
    sums = np.stack([sum(x[i] for i, block in enumerate(blocks) if block == name) for name in names])
    sums = sums / np.sqrt(np.mean(sums**2, -1, keepdims=True) + settings.norm_epsilon) * own["global_norm"]["scale"]

    places = np.asarray(bucket(jnp.arange(-20, 21), buckets=8, max_distance=12, bidirectional=True))

    def bias(table, distance):
        return np.asarray(params[table]["table"])[places[20 + distance]]

    out = np.zeros_like(x)
    for i, segment in enumerate(segments):
        if not segment:
            continue
        near = [j for j in range(len(x)) if segments[j] == segment and abs(i - j) <= radius]
        far = [g for g, (owner, _) in enumerate(names) if owner == segment]
        seen = [x[j] for j in near] + [sums[g] for g in far]
        biases = [bias("relative_bias", j - i) for j in near]
        biases += [bias("global_bias", names[g][1] - blocks[i][1]) for g in far]
        heads = []
        for head in range(HEADS):
            part = slice(head * SIZE, (head + 1) * SIZE)
            query = x[i] @ kernel["query"][:, part]
            logits = np.array(
                [query @ (y @ kernel["key"][:, part]) + b[head] for y, b in zip(seen, biases, strict=True)]
            )
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            heads.append(sum(w * (y @ kernel["value"][:, part]) for w, y in zip(weights, seen, strict=True)))
        out[i] = np.concatenate(heads) @ kernel["out"]
    return out


@pytest.mark.parametrize("changes", [{}, {"window": 2, "global_block": 1}, {"window": 40, "global_block": 5}])
def test_the_output_is_that_of_the_definition(changes):
    settings = config(**changes)
    params, apply = layer(settings)
    segments = np.array([1] * 8 + [2] * 2 + [3] * 4 + [0] * 3)
    x = np.random.default_rng(0).normal(size=(17, WIDTH)).astype(np.float32)
    found = np.asarray(quick_jit(apply)(x[None], segments[None]))[0]
    np.testing.assert_allclose(found, one_by_one(settings, params, x, segments), atol=2e-5)


def test_dropout_of_weights_keeps_the_mean():
    _, apply = layer(config(dropout=0.25))
    x = np.random.default_rng(0).normal(size=(1, 9, WIDTH)).astype(np.float32)
    segments, keys = np.ones((1, 9), np.int32), jax.random.split(jax.random.key(0), 2000)
    found = quick_jit(jax.vmap(lambda key: apply(x, segments, key=key)))(keys)
    plain = quick_jit(jax.vmap(lambda key: apply(x, segments)))(keys[:1])
    error = np.std(found, axis=0) / len(keys) ** 0.5
    assert error.min() > 0
    assert (np.abs(np.mean(found, axis=0) - plain[0]) < 5 * error).all()


def test_no_array_has_a_number_for_each_pair_of_tokens():
    _, apply = layer(config(window=16, global_block=16))
    sizes = {}
    for length in (512, 1024):
        x, segments = jax.ShapeDtypeStruct((1, length, WIDTH), jnp.float32), np.ones((1, length), np.int32)
        program = jax.make_jaxpr(jax.value_and_grad(lambda x, s=segments: apply(x, s).sum()))(x)
        arrays = [math.prod(v.aval.shape) for equation in all_equations(program.jaxpr) for v in equation.outvars]
        sizes[length] = max(arrays)
    # The logits: each head of each token has those of 3 windows of 9 tokens and those of all blocks.
    assert sizes == {length: HEADS * -(-length // 9) * 9 * (27 + length // 16) for length in sizes}


def all_equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                yield from all_equations(inner.jaxpr)
            elif hasattr(inner, "eqns"):
                yield from all_equations(inner)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 1}, r"model.encoder.window is 1, and model.encoder.global_block is 16: .* Nearest: 2\."),
        ({"positions": "rotary"}, r"model.encoder.positions is 'rotary', .* Nearest: relative\."),
        ({"num_kv_heads": 1}, r"model.encoder.num_kv_heads is 1, .* Nearest: 2\."),
        ({"qk_norm": True}, r"model.encoder.qk_norm is True, .* Nearest: False\."),
        ({"attention_softcap": 30.0}, r"model.encoder.attention_softcap is 30.0, .* Nearest: None\."),
    ],
)
def test_options_that_do_not_suit_it_are_refused_by_name(changes, message):
    sizes = {"num_layers": 1, "d_model": 16, "num_heads": 2, "d_ff": 8, "vocab_size": 16}
    with pytest.raises(UserError, match=message) as caught:
        longt5(**sizes, **changes)
    assert "\n" not in str(caught.value)


def test_a_decoder_and_divided_rows_are_refused():
    model = longt5(num_layers=1, d_model=16, num_heads=2, d_ff=8, vocab_size=16)
    with pytest.raises(UserError, match=r"model.decoder.global_block is 16: only an encoder .* Nearest: None\."):
        replace(model, decoder=replace(model.decoder, window=4, global_block=16))
    with pytest.raises(UserError, match=r"cannot divide rows along their length \(--mesh.context 2\)"):
        model.check_run(packing=True, context=2)
