"""Training a part of the parameters, the others frozen."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t import models
from t2t.config import from_json, to_json
from t2t.objectives import CrossEntropy
from t2t.optim import Adafactor, AdamW, Constant, Optax, Trainable
from t2t.optim.paths import flatten_specs, path_name
from t2t.sharding import MeshConfig, activate
from t2t.train.experiment import Experiment
from t2t.train.guard import Guard, Judge
from t2t.train.program import Program
from t2t.train.state import create_state
from t2t.train.step import make_step
from tests.models.tiny import quick_jit
from tests.train.test_guard import TINY
from tests.train.test_step import CONFIGS, batch, close

HEADED = {
    "encoder_decoder": replace(CONFIGS["encoder_decoder"], tied=False),
    "decoder": replace(CONFIGS["decoder"], tied=False),
    "encoder": CONFIGS["encoder"],
}
DECAYING = AdamW(schedule=Constant(peak=1e-2), weight_decay=0.5)


def experiment(kind: str, trainable: Trainable | None = None, **changes) -> Experiment:
    lengths = {"encoder_decoder": (16, 12), "decoder": (8, 8), "encoder": (16, 16)}[kind]
    data = replace(TINY.data, inputs_length=lengths[0], targets_length=lengths[1], batch_size=8)
    given = {"optimizer": DECAYING, "objective": CrossEntropy(z_loss=1e-3), **changes}
    return replace(TINY, model=HEADED[kind], data=data, trainable=trainable or Trainable(), **given)


def steps(wanted: Experiment, count: int = 3, mesh: MeshConfig | None = None):
    """Return the parameters before, the state after, and each step's metrics."""
    built = (mesh or MeshConfig(data=1)).build(jax.devices()[: 1 if mesh is None else 8])
    program = Program.of(wanted, built)
    state = quick_jit(
        lambda: create_state(program.model, program.transform, 0, program.specs), out_shardings=program.shardings
    )()
    update = make_step(
        program.model,
        program.transform,
        wanted.objective,
        learning_rate=program.learning_rate,
        microbatches=wanted.microbatches,
        specs=program.specs,
    )
    update = quick_jit(update, out_shardings=(program.shardings, None))
    before, told = jax.device_get(state.params), []
    with activate(built):
        for _ in range(count):
            state, metrics = update(state, batch(wanted.model.kind))
            told.append(jax.device_get(metrics))
    return before, state, told


def head_of(kind: str) -> tuple[str, ...]:
    paths = flatten_specs(HEADED[kind].build().specs)
    found = {path for path in paths if "head" in path}
    assert found, sorted(paths)
    return tuple(sorted(found))


@functools.cache
def first_update(kind: str, only_head: bool):
    """The gradients of the head on the first step: plain descent takes just these."""
    trainable = Trainable(include=head_of(kind)) if only_head else Trainable()
    plain = Optax(name="optax.sgd", schedule=Constant(peak=1.0))
    before, state, told = steps(experiment(kind, trainable, optimizer=plain), count=1)
    after = jax.device_get(state.params)
    flat = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(after)}
    old = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(before)}
    return {path: (old[path], flat[path]) for path in flat}, told[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder"])
def test_the_heads_gradients_are_those_of_training_everything(kind):
    part, told = first_update(kind, True)
    whole, all_told = first_update(kind, False)
    for path in head_of(kind):
        np.testing.assert_array_equal(part[path][1], whole[path][1], err_msg=path)
        assert not np.array_equal(*part[path]), path
    for path in part.keys() - set(head_of(kind)):
        np.testing.assert_array_equal(*part[path], err_msg=path)
    assert told["loss"] == all_told["loss"]
    assert 0 < told["grad_norm"] < all_told["grad_norm"], "the norm is that of the trainable part"


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        (DECAYING, "float32"),
        (
            Adafactor(schedule=Constant(peak=1e-2), min_dimension=4, weight_decay=0.5, clip_norm=1.0),
            "bfloat16",
        ),
        (Optax(name="optax.lion", schedule=Constant(peak=1e-2), arguments={"weight_decay": 0.5}), "bfloat16"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_frozen_parameters_stay_bit_for_bit_and_have_no_optimizer_state(optimizer, dtype):
    frozen = Trainable(exclude=("encoder", "embeddings"), frozen_dtype=dtype)
    before, state, told = steps(experiment("encoder_decoder", frozen, optimizer=optimizer, microbatches=2))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = path_name(path)
        old = functools.reduce(lambda tree, key: tree[key.key], path, before)
        kept = name.startswith(("encoder/", "embeddings/"))
        assert leaf.dtype == (dtype if kept else jnp.float32), name
        assert np.array_equal(leaf, old) == kept, name
    states = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state)}
    assert any("decoder/" in path for path in states)
    assert not any("encoder/" in path.replace("decoder/", "") or "embeddings" in path for path in states)
    assert told[-1]["loss"] < told[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADED)
def test_bfloat16_is_the_type_it_is_kept_in_not_the_one_it_is_computed_in(kind):
    """A model whose frozen parameters are bfloat16 computes what one does that has the same numbers in float32."""
    model = HEADED[kind].build()
    kept = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.init(jax.random.key(0)))
    loss = jax.jit(lambda params: CrossEntropy().loss(model, params, batch(kind), None).objective)
    np.testing.assert_array_equal(loss(kept), loss(jax.tree.map(lambda x: x.astype(jnp.float32), kept)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "exclude", "mesh"),
    [
        ("encoder_decoder", ("encoder", "embeddings"), MeshConfig(data=2, fsdp=2, tensor=2)),
        ("decoder", ("decoder/layers/mlp", "lm_head"), MeshConfig(data=1, fsdp=2, context=2, tensor=2)),
    ],
)
def test_sharded_equals_unsharded(kind, exclude, mesh):
    wanted = experiment(kind, Trainable(exclude=exclude))
    _, one, told = steps(wanted)
    _, other, sharded = steps(wanted, mesh=mesh)
    for single, divided in zip(told, sharded, strict=True):
        assert {k: float(v) for k, v in single.items()} == pytest.approx(
            {k: float(v) for k, v in divided.items()}, rel=1e-4
        )
    close(jax.device_get(one.params), other.params)


def test_a_step_holds_no_gradients_of_frozen_parameters():
    """Temporaries of the compiled step: less than the head's gradient alone, which would be carried through the loop over blocks of its loss."""
    model = models.gpt.gpt(
        num_layers=2, d_model=64, num_heads=2, max_length=16, vocab_size=4096, dropout=0.0, tied=False
    )
    held, gradients = {}, {}
    for path in ("**", "decoder/final_norm"):
        wanted = replace(
            experiment("decoder", Trainable(include=(path,))), model=model, objective=CrossEntropy(block=16)
        )
        program = Program.of(wanted, MeshConfig(data=1).build(jax.devices()[:1]))
        held[path] = program.compiled(program.abstract_batch()).memory_analysis().temp_size_in_bytes
        gradients[path] = 4 * program.counts()[0]
    head = 4 * 64 * 4096
    assert held["decoder/final_norm"] < head < gradients["**"] < held["**"]


def test_a_frozen_parameter_that_is_not_finite_is_named_and_a_gradients_name_is_right():
    wanted = experiment("decoder", Trainable(exclude=("decoder/layers/attention", "embeddings")))
    program = Program.of(wanted, MeshConfig(data=1).build(jax.devices()[:1]))
    state = program.create(0)
    judge = Judge(Guard(), program.specs)
    spoiled = jax.tree.map(lambda x: x, state.params)
    spoiled["embeddings"]["token"]["table"] = spoiled["embeddings"]["token"]["table"].at[:].set(jnp.nan)
    assert judge.bad_parameter(spoiled) == "embeddings/token/table"
    names = [path for path, spec in flatten_specs(program.specs).items() if spec.trainable]
    metrics = {"bad": 1, "loss": 1.0, "bad_tensor": 1, "loss_mean": 1.0}
    assert re.search(f"the gradient of {names[0]}", judge.bad_steps([1], [metrics])[0].what)


def test_a_stored_experiment_that_froze_by_its_optimizer_is_read():
    stored = to_json(replace(experiment("decoder"), trainable=Trainable()))
    del stored["trainable"]
    stored["optimizer"]["freeze"] = ["decoder/**"]
    read = from_json(stored)
    assert read.trainable == Trainable(exclude=("decoder/**",))
    stored["optimizer"]["freeze"] = []
    assert from_json(stored).trainable == Trainable()
