"""The running mean of the parameters: in the step, in checkpoints, and in what reads them."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.api.evaluation import evaluate_run
from t2t.checkpoint import CheckpointConfig, Checkpoints
from t2t.errors import UserError
from t2t.optim import AdamW, Constant, Ema, Trainable
from t2t.optim.paths import path_name
from t2t.optim.trainable import split
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import StartFrom
from t2t.train.loop import Outcome
from t2t.train.program import Program
from t2t.train.run import SavedRun
from t2t.train.start import initial_state
from t2t.types import Params
from tests.train.test_frozen_runs import run
from tests.train.test_guard import TINY as BASE
from tests.train.test_step import CONFIGS, batch

DECAY = 0.5
TINY = replace(
    BASE,
    optimizer=AdamW(schedule=Constant(peak=1e-2)),
    ema=Ema(decay=DECAY),
    trainable=Trainable(exclude=("embeddings",)),
    steps=4,
    log_every=1,
    checkpoint=CheckpointConfig(every=2),
    evaluation=Evaluation(every=2, examples=4, batch_size=4, length=4),
)


def flat(tree: Params) -> dict[str, np.ndarray]:
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(one: Params, other: Params, **tolerance: float) -> None:
    left, right = flat(one), flat(other)
    assert left.keys() == right.keys()
    for path, value in left.items():
        np.testing.assert_allclose(value, right[path], err_msg=path, **(tolerance or {"rtol": 0, "atol": 0}))


@functools.cache
def program() -> Program:
    mesh = MeshConfig(data=1, fsdp=4, tensor=2)
    data = replace(TINY.data, batch_size=8)
    return Program.of(replace(TINY, model=CONFIGS["decoder"], data=data, mesh=mesh, microbatches=2), mesh.build())


def test_the_mean_is_numpys_and_bad_and_empty_steps_leave_it_alone():
    state, update, mean = program().create(0), program().step(), None
    good = jax.tree.map(lambda x: jax.device_put(jnp.asarray(x), program().batch_sharding()), batch("decoder"))
    bad = replace(good, weights=good.weights * jnp.nan)
    empty = replace(good, weights=good.weights * 0)
    updates = 0
    for part in (good, good, bad, good, empty, good):
        before = jax.device_get(state.ema)
        if mean is None:
            mean = before
            assert_same(mean, split(jax.device_get(state.params), program().specs)[0])
        state, metrics = update(state, part)
        if part is bad:
            assert int(metrics["bad"]) == 1
        if part is not good:
            assert_same(jax.device_get(state.ema), before)
        else:
            decay = min(DECAY, (1 + updates) / (10 + updates))
            now = split(jax.device_get(state.params), program().specs)[0]
            mean = jax.tree.map(lambda old, new, d=decay: d * np.float64(old) + (1 - d) * new, mean, now)
        updates += part is not bad
    assert_same(jax.device_get(state.ema), mean, rtol=1e-5, atol=1e-7)
    trained, evaluated = flat(state.params), flat(state.evaluated)
    assert evaluated.keys() == trained.keys()
    frozen = {path for path, value in trained.items() if np.array_equal(value, evaluated[path])}
    assert frozen == program().frozen
    for mine, theirs in zip(
        jax.tree.leaves(state.ema), jax.tree.leaves(split(state.params, program().specs)[0]), strict=True
    ):
        assert mine.sharding.is_equivalent_to(theirs.sharding, mine.ndim)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "whole"
    assert run(directory, TINY) == Outcome(step=4, stopped=False)
    return directory


def state_of(directory: Path, step: int):
    own = Program.of(TINY, TINY.mesh.build())
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = checkpoints.restore(step, own.abstract_state())
    return jax.device_get(state.replace(key=jax.random.key_data(state.key)))


@pytest.mark.slow
def test_resumed_is_uninterrupted_bit_for_bit(whole, tmp_path):
    alone = replace(TINY, evaluation=replace(TINY.evaluation, split=None))
    run(tmp_path / "halves", replace(alone, steps=2))
    run(tmp_path / "halves", alone)
    assert_same(state_of(whole, 4), state_of(tmp_path / "halves", 4))
    with pytest.raises(UserError, match=r"ema.decay: 0.5 -> "):
        run(tmp_path / "halves", replace(TINY, ema=Ema()))


@pytest.mark.slow
def test_the_mean_does_not_change_the_training_and_a_run_without_it_stores_nothing(whole, tmp_path):
    run(tmp_path / "plain", replace(TINY, ema=Ema(), evaluation=replace(TINY.evaluation, split=None)))
    plain, trained = SavedRun.load(tmp_path / "plain").params(), SavedRun.load(whole, plain_weights=True).params()
    # The steps are two programs, in which XLA may fuse operations differently: their last bits may differ.
    assert_same(plain, trained, rtol=1e-6, atol=1e-6)
    assert (whole / "checkpoints" / "4" / "ema").is_dir()
    assert not (tmp_path / "plain" / "checkpoints" / "4" / "ema").exists()


@pytest.mark.slow
def test_what_reads_a_run_reads_its_mean_unless_told(whole):
    state = state_of(whole, 4)
    assert_same(SavedRun.load(whole).params(), state.evaluated)
    assert_same(SavedRun.load(whole, plain_weights=True).params(), state.params)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    (during,) = [line["eval/loss"] for line in lines if line["step"] == 4 and "eval/loss" in line]
    (mean,) = evaluate_run(SavedRun.load(whole))
    (plain,) = evaluate_run(SavedRun.load(whole, plain_weights=True))
    assert mean.metrics["loss"] == pytest.approx(during, rel=1e-5)
    assert plain.metrics["loss"] != pytest.approx(during, rel=1e-5)
    assert plain.task == f"{mean.task}@plain-weights"


def begin(directory: Path, source: Path, **changes: object) -> Params:
    """Return the state at step 0 of a run that trains all parameters and starts from `source`."""
    wanted = replace(TINY, start_from=StartFrom(run=str(source), **changes), trainable=Trainable())
    record = replace(SavedRun.load(source).record, experiment=wanted)
    begun = Program.of(wanted, wanted.mesh.build())
    with Checkpoints(directory) as checkpoints:
        return initial_state(record, source, begun, lambda line: None, checkpoints)


@pytest.mark.slow
def test_another_run_starts_from_the_mean(whole, tmp_path):
    for plain in (False, True):
        state = begin(tmp_path, whole, plain_weights=plain)
        assert_same(state.params, SavedRun.load(whole, plain_weights=plain).params())
        assert_same(state.ema, state.params)
    frozen = replace(TINY, trainable=replace(TINY.trainable, frozen_storage="reference"))
    with pytest.raises(UserError, match=r"Nearest: copy, or --start-from.plain-weights"):
        run(tmp_path / "run", replace(frozen, start_from=StartFrom(run=str(whole))))


@pytest.mark.slow
def test_damage_to_the_mean_is_found_before_it_is_read(whole):
    file = max(
        (path for path in (whole / "checkpoints" / "2" / "ema").rglob("*") if path.is_file()),
        key=lambda p: p.stat().st_size,
    )
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="checkpoints/2/ema"):
        SavedRun.load(whole, 2)
