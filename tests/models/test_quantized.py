"""Models whose blocks multiply in eight bits: near those in floats, and as indifferent to packing, meshes and steps of decoding."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.checkpoint import Checkpoints
from t2t.errors import UserError
from t2t.export.family import canonical
from t2t.nn.model import ParamSpec
from t2t.sharding import DEFAULT_RULES, MeshConfig, activate
from tests.checkpoint.run_state import State, abstract, assert_same
from tests.models.tiny import VOCAB, batch, config, logits_of, loss, params_of, quick_jit, row, rows, some_batch

pytestmark = pytest.mark.slow  # a dozen models compiled
KINDS = ("int8", "fp8")
NEAR = {"int8": 0.06, "fp8": 0.25}
"""Of gradients, relative: some dozen products, each with the error that tests/nn/test_quantized.py has."""


def tiny(kind, name="gpt"):
    return config(name, num_heads=8, d_model=32, d_ff=48, quantization=kind)


def packed():
    """Return two rows of two examples, which differ in their first example alone, twice over four rows."""
    random = np.random.default_rng(0)
    second = random.integers(1, VOCAB, 7)
    own = rows([row([random.integers(1, VOCAB, 6), second], 16) for _ in range(4)])
    return batch("decoder", None, own)


STEPS, HALF = 60, 30
TRANSFORM = optax.adam(1e-2)


def placed(model, mesh=None):
    """Return the parameters, on a mesh where there is one."""
    params = params_of(tiny("none"))[1]
    if mesh is None:
        return params
    places = jax.tree.map(
        lambda spec: DEFAULT_RULES.sharding(spec.axes, spec.shape, mesh),
        model.specs,
        is_leaf=lambda spec: isinstance(spec, ParamSpec),
    )
    return jax.device_put(params, places)


def begin(params):
    return {"params": params, "moments": TRANSFORM.init(params), "gradients": params, "losses": jnp.zeros(STEPS)}


@functools.cache
def train(kind, mesh=None):
    """Return the compiled function (state, first, last) -> state after these steps of training on eight rows."""
    model, own = tiny(kind).build(), some_batch("decoder", count=8, length=12)

    def step(at, state):
        value, found = jax.value_and_grad(lambda p: loss(model, p, own))(state["params"])
        updates, moments = TRANSFORM.update(found, state["moments"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        return {"params": params, "moments": moments, "gradients": found, "losses": state["losses"].at[at].set(value)}

    return quick_jit(lambda state, first, last: jax.lax.fori_loop(first, last, step, state))


@functools.cache
def first_step(kind, mesh=None):
    with contextlib.nullcontext() if mesh is None else activate(mesh):
        return train(kind, mesh)(begin(placed(tiny(kind).build(), mesh)), 0, 1)


@functools.cache
def half(kind):
    return train(kind)(first_step(kind), 1, HALF)


@functools.cache
def end(kind):
    return train(kind)(half(kind), HALF, STEPS)


def apart(found, wanted):
    """Return how far two trees of gradients are apart, relative."""
    off = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), found, wanted)
    return float(optax.global_norm(off) / optax.global_norm(wanted))


MESH = MeshConfig(data=2, fsdp=2, tensor=2)


@pytest.mark.parametrize(("kind", "mesh"), [("int8", None), ("fp8", None), ("int8", MESH)])
def test_gradients_are_near_those_in_floats(kind, mesh):
    # On a mesh norms and softmax sum in another order: what then rounds to the next integer is rounded otherwise, not worse.
    off = apart(first_step(kind, mesh and mesh.build())["gradients"], first_step("none")["gradients"])
    assert 0.005 < off < NEAR[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_an_example_is_rounded_the_same_whatever_it_is_packed_with(kind):
    logits = np.asarray(logits_of(tiny(kind))(packed()))
    for other in logits[1:]:
        np.testing.assert_array_equal(other[6:13], logits[0, 6:13])
        assert not np.array_equal(other[:6], logits[0, :6])


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_those_of_the_model_in_floats(kind):
    assert tiny(kind).build().specs == tiny("none").build().specs
    assert canonical(tiny(kind)) == canonical(tiny("none"))


def test_steps_of_decoding_are_rounded_as_the_full_pass_is():
    model, params = params_of(tiny("int8"))
    text = np.random.default_rng(1).integers(1, VOCAB, (3, 8))
    whole = batch("decoder", None, rows([row([x], 16) for x in text]))
    expected = np.asarray(logits_of(tiny("int8"))(whole))
    prompts = batch("decoder", None, rows([row([x[:4]], 4) for x in text]))
    logits, cache = quick_jit(functools.partial(model.start, length=16))(params, prompts)
    step = quick_jit(model.step)
    for at in range(3, 8):
        # One value that rounds the other way is 1% of its vector's largest.
        assert np.linalg.norm(logits - expected[:, at]) < 0.02 * np.linalg.norm(expected[:, at])
        if at < 7:
            logits, cache = step(params, cache, text[:, at + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_learns_as_it_does_in_floats(kind):
    exact, found = np.asarray(end("none")["losses"]), np.asarray(end(kind)["losses"])
    assert exact[-1] < 0.3 * exact[0]
    assert np.abs(found - exact).mean() < {"int8": 0.03, "fp8": 0.1}[kind] * exact[0]
    assert found[-1] < 0.35 * found[0]


def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    now = half("int8")
    state = State(step=jnp.int32(HALF), params=now["params"], opt_state=now["moments"], key=jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(HALF, state, {})
        checkpoints.wait()
        restored = checkpoints.restore(HALF, abstract(state))
    again = train("int8")(
        {**begin(restored.params), "moments": restored.opt_state, "losses": now["losses"]}, HALF, STEPS
    )
    assert_same(again, end("int8"))


def test_unknown_quantization_is_refused():
    with pytest.raises(UserError, match=r"unknown quantization 'int4' \(model.quantization\). Nearest: int8"):
        tiny("int4")
