"""Optimizer state in eight bits: its rounding, what stays float32, its place on a mesh, and updates close to those of float32."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.errors import UserError
from t2t.nn.model import ParamSpec
from t2t.optim import Adafactor, AdamW, Constant, Optax
from t2t.optim.eight_bit import SMALL, Blocks, block_size, decoded, encoded, in_eight_bits, table
from t2t.optim.paths import flatten_specs
from t2t.optim.state_axes import state_axes
from t2t.plan.memory import state_bytes
from t2t.sharding import DEFAULT_RULES, MeshConfig
from t2t.train.program import Program
from t2t.train.run import SavedRun
from tests.models.tiny import config, quick_jit
from tests.train.test_ema import assert_same
from tests.train.test_frozen_runs import TINY as RUN
from tests.train.test_frozen_runs import run


def spec(shape, axes):
    return ParamSpec(shape, jnp.float32, axes, decay=True)


SPECS = {
    "embeddings": {"table": spec((64, 128), ("vocab", "embed"))},
    "decoder": {
        "layers": {
            "kernel": spec((2, 64, 192), ("layers", "embed", "mlp")),
            "bias": spec((2, 4094), ("layers", "mlp")),
            "prime": spec((2, 16, 514), ("layers", "embed", "mlp")),
        }
    },
    "head": {"kernel": spec((64, 512), ("embed", "vocab"))},
}
KEPT = {"decoder/layers/kernel", "head/kernel"}


def params(seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda one: jnp.asarray(random.normal(size=one.shape) * 10 ** random.uniform(-4, 0, one.shape), jnp.float32),
        SPECS,
        is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
    )


def test_the_tables_are_those_of_bitsandbytes():
    """The largest, the smallest and some values of `create_dynamic_map` of bitsandbytes, with and without a sign."""
    for signed, smallest, largest in ((True, 5.5e-7, 0.99296875), (False, 3.25e-7, 0.996484375)):
        values = table(signed=signed)
        assert len(values) == len(set(values)) == 256
        np.testing.assert_allclose(values[values > 0][0], smallest, rtol=1e-6)
        np.testing.assert_allclose(values[-2:], [largest, 1.0], rtol=1e-6)
        assert values[0] == (-values[-2] if signed else 0.0)


@pytest.mark.parametrize("root", [False, True])
def test_a_value_becomes_the_nearest_of_its_block(root):
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 5, 192)).astype(np.float32) * 10 ** random.uniform(-6, 0, (2, 5, 192)).astype(np.float32)
    x = np.square(x) if root else x
    x[0, 0] = 0.0
    found = decoded(encoded(jnp.asarray(x), root=root))
    np.testing.assert_array_equal(found[0, 0], 0.0)
    scaled = (np.sqrt(x) if root else x) / np.maximum(np.abs(np.sqrt(x) if root else x).max(-1, keepdims=True), 1e-30)
    values = table(signed=not root)
    nearest = values[np.abs(scaled[..., None] - values).argmin(-1)]
    if root:
        nearest = np.where((scaled > 0) & (nearest == 0), values[1], nearest)
    codes = encoded(jnp.asarray(x), root=root).codes
    assert (np.abs(values[np.asarray(codes)] - nearest) <= 1e-6 * np.abs(nearest)).mean() > 0.999  # the rest are ties
    assert [block_size(size) for size in (192, 576, 1024, 50257)] == [192, 192, 256, 29]


@pytest.mark.parametrize("rule", [optax.scale_by_adam, optax.scale_by_lion])
def test_moments_of_large_parameters_have_bytes_and_the_axes_of_the_parameter(rule):
    transform = in_eight_bits(rule(), SPECS)
    state, axes = transform.init(params()), state_axes(transform, SPECS)
    for moment, of_moment in ((state.mu, axes.mu), *([(state.nu, axes.nu)] if hasattr(state, "nu") else [])):
        kernel = moment["decoder"]["layers"]["kernel"]
        assert kernel.codes.dtype == jnp.uint8
        assert kernel.scales.shape == (2, 64, 1)
        assert isinstance(moment["head"]["kernel"], Blocks)
        kept = (moment["embeddings"]["table"], *(moment["decoder"]["layers"][name] for name in ("bias", "prime")))
        assert {leaf.dtype for leaf in kept} == {jnp.dtype("float32")}
        assert of_moment["decoder"]["layers"]["kernel"].codes == ("layers", "embed", "mlp")
        assert of_moment["decoder"]["layers"]["kernel"].scales == ("layers", "embed", None)
        assert of_moment["embeddings"]["table"] == ("vocab", "embed")


@pytest.mark.parametrize("rule", [functools.partial(optax.scale_by_adam, b2=0.95), optax.scale_by_lion])
def test_updates_are_close_to_those_of_float32(rule):
    whole, bytes_ = rule(), in_eight_bits(rule(), SPECS)

    @quick_jit
    def run(gradients):
        def step(states, gradient):
            (one, first), (other, second) = (
                t.update(gradient, s) for t, s in zip((whole, bytes_), states, strict=True)
            )
            return (first, second), (one, other)

        return jax.lax.scan(step, (whole.init(params()), bytes_.init(params())), gradients)[1]

    one, other = jax.tree.map(lambda x: x[-1], run(jax.tree.map(lambda *each: jnp.stack(each), *map(params, range(5)))))
    for path, value in jax.tree_util.tree_leaves_with_path(one):
        found = functools.reduce(lambda tree, key: tree[key.key], path, other)
        name = "/".join(key.key for key in path)
        if name in KEPT:
            cosine = np.vdot(value, found) / np.linalg.norm(value) / np.linalg.norm(found)
            assert 0.98 < cosine < 1.0, name
        else:
            np.testing.assert_allclose(found, value, rtol=1e-6, err_msg=name)


def test_bad_entries_keep_their_old_moments():
    transform = in_eight_bits(optax.scale_by_adam(), SPECS)
    state = transform.update(params(1), transform.init(params()))[1]
    bad = params(2)
    bad["head"]["kernel"] = bad["head"]["kernel"].at[3, 5].set(jnp.nan)
    after = transform.update(bad, state)[1]
    old, new = (decoded(one.mu["head"]["kernel"]) for one in (state, after))
    assert bool(jnp.isfinite(new).all())
    np.testing.assert_allclose(new[3, 5], old[3, 5], atol=0.02 * float(jnp.abs(new[3]).max()))


def test_an_optimizer_without_such_moments_is_refused():
    with pytest.raises(UserError, match=r"state_dtype int8 .*no moment .*at least 4,096 values.*Nearest: float32"):
        AdamW(state_dtype="int8").build({"bias": spec((8,), ("mlp",))})
    with pytest.raises(UserError, match=r"Nearest: float32"):
        Adafactor(state_dtype="int8", min_dimension=32).build({"head": SPECS["head"]})
    state = replace(AdamW(schedule=Constant(peak=1e-3)), state_dtype="int8").build(SPECS).init(params())
    assert any(isinstance(leaf, Blocks) for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, Blocks)))
    assert isinstance(Optax(name="optax.lion", state_dtype="int8").build(SPECS), optax.GradientTransformation)


def test_on_a_mesh_the_state_is_the_same():
    transform = in_eight_bits(optax.scale_by_adam(), SPECS)
    mesh = MeshConfig(data=1, fsdp=4, tensor=2).build()
    axes = state_axes(transform, SPECS)
    places = jax.tree.map(
        lambda leaf, axes: DEFAULT_RULES.sharding(axes, leaf.shape, mesh),
        jax.eval_shape(transform.init, params()),
        axes,
    )
    gradient = params(1)
    alone = quick_jit(lambda state: transform.update(gradient, state))(transform.init(params()))
    spread = quick_jit(lambda state: transform.update(gradient, state), out_shardings=(None, places))(
        jax.device_put(transform.init(params()), places)
    )
    kernel = spread[1].nu["decoder"]["layers"]["kernel"]
    assert kernel.codes.sharding.shard_shape(kernel.codes.shape) == (2, 16, 96)
    assert kernel.scales.sharding.shard_shape(kernel.scales.shape) == (2, 16, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), spread[0], alone[0])
    for one, other in zip(jax.tree.leaves(spread[1]), jax.tree.leaves(alone[1]), strict=True):
        assert (np.asarray(one) == np.asarray(other)).mean() > 0.999  # a division may round in another way


WIDE = replace(
    RUN,
    model=config("t5", vocab_size=384, d_model=64, d_ff=128, num_heads=8),
    optimizer=AdamW(schedule=Constant(peak=1e-3), state_dtype="int8"),
)


def test_the_bytes_of_the_plan_are_those_of_the_state():
    program = Program.of(WIDE, MeshConfig(data=1).build(jax.devices()[:1]))
    expected = 8  # the counts of Adam and of the schedule
    for path, one in flatten_specs(program.specs).items():
        values = math.prod(one.shape)
        large = path.endswith("kernel")
        assert large or values < 2 * SMALL or "embeddings" in path, path
        expected += 2 * (values + 4 * values // block_size(one.shape[-1]) if large else 4 * values)
    assert state_bytes(program).optimizer == expected


@pytest.mark.slow
def test_a_resumed_run_is_an_uninterrupted_one(tmp_path):
    run(tmp_path / "whole", WIDE)
    run(tmp_path / "halves", replace(WIDE, steps=2))
    run(tmp_path / "halves", WIDE)
    assert_same(SavedRun.load(tmp_path / "whole").params(), SavedRun.load(tmp_path / "halves").params())
    with pytest.raises(UserError, match=r'optimizer.state_dtype: "int8" -> "float32"'):
        run(tmp_path / "halves", replace(WIDE, optimizer=replace(WIDE.optimizer, state_dtype="float32")))
