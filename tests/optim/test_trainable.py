from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.config import from_json, to_json
from t2t.errors import UserError
from t2t.optim import Adafactor, AdamW, Constant, Optax, Trainable
from t2t.optim.paths import flatten_specs
from t2t.optim.trainable import merge, split, trainable_specs
from tests.optim.stacked_toy import STACKED, random_like, run

RATE = Constant(peak=0.1)
FROZEN = Trainable(exclude=("encoder/*", "embedding"), frozen_dtype="bfloat16")


def test_patterns_choose_what_is_trained_and_the_type_of_the_rest():
    flat = flatten_specs(FROZEN.apply(STACKED))
    trainable = {path for path, spec in flat.items() if spec.trainable}
    assert trainable == {path for path in flat if path.startswith("decoder/")}
    assert {spec.dtype for path, spec in flat.items() if path in trainable} == {jnp.float32}
    assert {spec.dtype for path, spec in flat.items() if path not in trainable} == {jnp.dtype("bfloat16")}
    assert Trainable().apply(STACKED) == STACKED
    assert Trainable(include=("decoder",)).apply(STACKED) == Trainable(exclude=("encoder", "embedding")).apply(STACKED)


def test_what_a_model_freezes_stays_frozen():
    specs = {**STACKED, "embedding": replace(STACKED["embedding"], trainable=False)}
    assert not Trainable().apply(specs)["embedding"].trainable
    assert not Trainable(include=("**",)).apply(specs)["embedding"].trainable


def test_a_tree_is_taken_apart_and_put_together():
    specs, params = FROZEN.apply(STACKED), random_like(STACKED, 0)
    trainable, frozen = split(params, specs)
    assert trainable.keys() == {"decoder"}
    assert frozen.keys() == {"encoder", "embedding"}
    jax.tree.map(np.testing.assert_array_equal, merge(trainable, frozen), params)
    assert split(params, STACKED)[1] == {}


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (
            Trainable(exclude=("encoder/qery",)),
            r"trainable.exclude: .*'encoder/qery' matches no parameter. Nearest: encoder/query",
        ),
        (Trainable(include=("encodr/**",)), r"trainable.include: .*'encodr/\*\*' matches no parameter. Nearest: en"),
        (Trainable(exclude=("**",)), r"trainable.exclude '\*\*' leaves no parameter to train \(--trainable.include"),
        (Trainable(frozen_dtype="bfloat16"), r"frozen_dtype bfloat16 .*no parameter is frozen. Nearest: float32"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(trainable, message):
    with pytest.raises(UserError, match=message) as raised:
        trainable.apply(STACKED)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "config",
    [
        AdamW(schedule=RATE),
        Adafactor(schedule=RATE, min_dimension=4, clip_norm=1.0, weight_decay=0.1),
        Optax(name="optax.lion", schedule=RATE, clip_norm=1.0),
    ],
)
def test_frozen_parameters_take_no_memory_and_do_not_count_in_the_norm(config):
    """The optimizer of the trainable part does what it does for a model that has no other parameters."""
    specs = trainable_specs(FROZEN.apply(STACKED))
    params, gradients = random_like(STACKED, 0), [random_like(STACKED, seed) for seed in (1, 2)]
    marked = FROZEN.apply(STACKED)
    got, state = run(config.build(specs), split(params, marked)[0], [split(g, marked)[0] for g in gradients])
    alone = {"decoder": STACKED["decoder"]}
    wanted, lone_state = run(
        config.build(alone), {"decoder": params["decoder"]}, [{"decoder": g["decoder"]} for g in gradients]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got["decoder"], wanted["decoder"])
    assert optax.tree.size(state) == optax.tree.size(lone_state)


def test_comes_back_from_json():
    assert from_json(to_json(FROZEN)) == FROZEN
