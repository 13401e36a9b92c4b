"""Parameters that do not change, kept once beside the steps: as a copy, or as a reference to another run's checkpoint."""

from __future__ import annotations

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.checkpoint import Checkpoints, Reference
from t2t.errors import UserError
from tests.checkpoint.run_state import State, abstract, assert_same, make

FROZEN = {"encoder/w", "frozen"}


def later(state, step):
    """A state of some steps on: what is trained has changed."""
    encoder = {**state.params["encoder"], "b": state.params["encoder"]["b"] + step}
    return state.replace(step=jnp.int32(step), params={**state.params, "encoder": encoder})


def write(directory, state, steps=(1, 2), frozen=FROZEN, reference=None):
    with Checkpoints(directory) as checkpoints:
        checkpoints.keep_apart(frozen, reference)
        for step in steps:
            checkpoints.save(step, later(state, step), {"shard-0": b"1"})


def reference_to(directory, step, dtype="float32", parameters=("encoder/w", "frozen")):
    with Checkpoints(directory) as checkpoints:
        return Reference(
            checkpoints=str(directory),
            step=step,
            checksum=checkpoints.checksum(step),
            parameters=parameters,
            dtype=dtype,
        )


def stored(directory, step, asked):
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.newest_good(print) is not None
        return checkpoints.restore(step, abstract(asked))


def files(directory):
    return sorted(path.name for path in directory.iterdir())


def spoil(folder):
    """Change one byte of the largest file."""
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    return largest


def test_a_copy_is_written_once_and_every_step_is_whole(tmp_path):
    write(tmp_path, make(3))
    assert files(tmp_path) == ["1", "2", "frozen"]
    written = (tmp_path / "frozen").stat().st_mtime_ns
    write(tmp_path, make(3), steps=(3,))
    assert (tmp_path / "frozen").stat().st_mtime_ns == written
    for step in (1, 2, 3):
        assert_same(stored(tmp_path, step, make()), later(make(3), step))
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore_params(2), later(make(3), 2).params)
        assert checkpoints.param_shapes(2)["encoder"]["w"] == jax.ShapeDtypeStruct((8, 5), jnp.float32)
        frozen = {"frozen": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
        assert_same(checkpoints.restore_params(2, frozen, partial=True), {"frozen": make(3).params["frozen"]})


def test_a_copy_of_a_beginning_that_was_cut_off_is_replaced(tmp_path):
    write(tmp_path, make(3), steps=(1,))
    shutil.rmtree(tmp_path / "1")  # as after a death between the copy and the first step
    write(tmp_path, make(4), steps=(1,))
    assert_same(stored(tmp_path, 1, make()), later(make(4), 1))


def test_a_damaged_copy_is_named(tmp_path):
    write(tmp_path, make(3))
    file = spoil(tmp_path / "frozen" / "params")
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(UserError, match="the checkpoint is damaged") as raised:
        checkpoints.newest_good(print)
    assert str(file) in str(raised.value)


def test_steps_written_whole_are_read_and_gone_on_with(tmp_path):
    """As versions wrote them that knew no copy."""
    write(tmp_path, make(3), steps=(1,), frozen=())
    write(tmp_path, make(3), steps=(2,))
    for step in (1, 2):
        assert_same(stored(tmp_path, step, make()), later(make(3), step))


def test_a_reference_takes_no_space_and_reads_the_other_checkpoint(tmp_path):
    base, run, more = tmp_path / "base", tmp_path / "run", tmp_path / "more"
    write(base, make(3), frozen=())
    write(run, make(3), reference=reference_to(base, 2))
    assert files(run) == ["1", "2", "frozen.json"]
    assert_same(stored(run, 2, make()), later(make(3), 2))
    # A reference to a run that has a reference itself.
    write(more, later(make(3), 2), steps=(5,), frozen=FROZEN, reference=reference_to(run, 2))
    assert_same(stored(more, 5, make()).params["frozen"], make(3).params["frozen"])
    shutil.rmtree(base / "2")
    with Checkpoints(more) as checkpoints, pytest.raises(UserError, match=f"{base}/2: .*missing"):
        checkpoints.newest_good(print)


def test_what_a_reference_rounds_stays_rounded(tmp_path):
    write(tmp_path / "base", make(3), frozen=())
    rounded = make(3).params["frozen"].astype(jnp.bfloat16)
    state = make(3)
    state = state.replace(params={**state.params, "frozen": rounded})
    write(
        tmp_path / "run",
        state,
        frozen={"frozen"},
        reference=reference_to(tmp_path / "base", 1, "bfloat16", ("frozen",)),
    )
    assert_same(stored(tmp_path / "run", 1, state).params["frozen"], rounded)
    wide = {"frozen": jax.ShapeDtypeStruct((2, 2), jnp.float32)}
    with Checkpoints(tmp_path / "run") as checkpoints:
        read = checkpoints.restore_params(1, wide, partial=True)["frozen"]
    np.testing.assert_array_equal(read, rounded.astype(jnp.float32))


def test_a_source_that_is_missing_changed_or_damaged_is_refused_in_one_line(tmp_path):
    base, run = tmp_path / "base", tmp_path / "run"
    write(base, make(3), frozen=())
    write(run, make(3), reference=reference_to(base, 2))

    def refusal():
        with Checkpoints(run) as checkpoints, pytest.raises(UserError) as raised:
            checkpoints.newest_good(print)
        assert "\n" not in str(raised.value)
        assert str(base) in str(raised.value)
        return str(raised.value)

    shutil.copytree(base, tmp_path / "kept")
    shutil.rmtree(base / "2")
    assert "which is missing" in refusal()
    write(base, make(4), steps=(2,), frozen=())  # trained anew, in the same place
    assert "which has changed" in refusal()
    shutil.rmtree(base)
    shutil.copytree(tmp_path / "kept", base)
    assert_same(stored(run, 2, make()), later(make(3), 2))
    spoil(base / "2" / "params")
    assert "frozen.json refers to this checkpoint" in refusal()
    shutil.rmtree(base)
    shutil.copytree(tmp_path / "kept", tmp_path / "moved")
    file = run / "frozen.json"
    assert str(file) in refusal()
    file.write_text(json.dumps({**json.loads(file.read_text()), "checkpoints": str(tmp_path / "moved")}))
    assert_same(stored(run, 2, make()), later(make(3), 2))
    file.write_text(json.dumps({**json.loads(file.read_text()), "checkpoints": "gs://somebody/else"}))
    with Checkpoints(run) as checkpoints, pytest.raises(UserError, match="it refers to 'gs://somebody/else'"):
        checkpoints.newest_good(print)


def test_optimizer_state_of_a_version_that_froze_by_the_optimizer_is_read(tmp_path):
    params, rule = make(3).params, optax.adam(0.1)
    labels = {"encoder": "trained", "frozen": "frozen"}
    older = optax.partition({"trained": rule, "frozen": optax.set_to_zero()}, labels)
    _, state = older.update(params, older.init(params), params)
    key = jax.random.key(0)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, State(step=jnp.int32(1), params=params, opt_state=state, key=key))
    trained = {"encoder": params["encoder"]}
    _, wanted = rule.update(trained, rule.init(trained), trained)
    read = stored(tmp_path, 1, State(step=jnp.int32(1), params=params, opt_state=wanted, key=key))
    assert_same(read.opt_state, wanted)
