import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.checkpoint import CheckpointConfig, CheckpointError, Checkpoints, store
from t2t.errors import UserError
from tests.checkpoint.run_state import State, abstract, assert_same, make

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with one checkpoint; not to be changed."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.save(7, make(7), {"shard-0": b"\x00\xffab", "shard-1": b""}, {"eval/loss": 2.5})
    return directory


@pytest.fixture
def damaged(saved, tmp_path):
    """A copy of it, to be damaged."""
    directory = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(saved), str(directory)], check=True)
    return directory


def test_restores_bit_for_bit_with_position_and_metrics(saved):
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.steps() == [7]
        state = checkpoints.restore(7, abstract(make(0)))
        assert_same(state, make(7))
        # The key is one: it draws what the saved one would have drawn.
        assert jax.random.normal(state.key) == jax.random.normal(make(7).key)
        assert checkpoints.restore_position(7) == {"shard-0": b"\x00\xffab", "shard-1": b""}
        assert checkpoints.metrics(7) == {"eval/loss": 2.5}


def test_parameters_alone_and_parts_and_dtypes(saved):
    checkpoints = Checkpoints(saved)
    params = make(7).params
    assert_same(checkpoints.restore_params(7), params)
    assert_same(checkpoints.restore_params(7, abstract(params)), params)
    half = checkpoints.restore_params(7, {"encoder": {"w": jax.ShapeDtypeStruct((8, 5), jnp.bfloat16)}}, partial=True)
    assert_same(half, {"encoder": {"w": params["encoder"]["w"].astype(jnp.bfloat16)}})
    assert checkpoints.param_shapes(7)["encoder"]["b"] == jax.ShapeDtypeStruct((3,), jnp.bfloat16)


def test_parameters_are_read_without_the_optimizer(damaged):
    for path in (damaged / "7" / "training").rglob("*"):
        if path.is_file():
            path.unlink()
    assert_same(Checkpoints(damaged).restore_params(7), make(7).params)


def test_donated_buffers_do_not_reach_the_checkpoint(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    x = jnp.arange(2_000_000, dtype=jnp.float32)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, State(step=jnp.int32(1), params={"w": x}, opt_state=(), key=jax.random.key(0)))
        jax.block_until_ready(overwrite({"w": x}))
        np.testing.assert_array_equal(checkpoints.restore_params(1)["w"], np.arange(2_000_000, dtype=np.float32))


def test_keeps_the_last_and_the_best(tmp_path):
    config = CheckpointConfig(keep_last=2, keep_best=1)
    with Checkpoints(tmp_path, config) as checkpoints:
        for step, loss in [(1, 3.0), (2, 1.0), (3, 2.0), (4, float("nan")), (5, 4.0)]:
            checkpoints.save(step, make(step), {}, {"eval/loss": loss})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 4, 5]
        assert (checkpoints.latest(), checkpoints.best()) == (5, 2)
        assert not checkpoints.save(5, make(9))
        assert_same(checkpoints.restore(5, abstract(make())), make(5))
    assert sorted(os.listdir(tmp_path)) == ["2", "4", "5"]


def test_metrics_that_come_after_the_save_are_part_of_the_step(tmp_path):
    config = CheckpointConfig(every=1, keep_last=1, keep_best=1)
    with Checkpoints(tmp_path, config) as checkpoints:
        for step, loss in ((1, 2.0), (2, 1.0), (3, 3.0)):
            checkpoints.save(step, make(step), {"shard-0": b"x"})
            checkpoints.add_metrics(step, {"eval/loss": loss})
            assert checkpoints.metrics(step) == {"eval/loss": loss}
        assert checkpoints.steps() == [2, 3]  # the best and the newest
        assert checkpoints.best() == 2
        checkpoints.add_metrics(3, {"eval/loss": 0.5})  # made again
        assert checkpoints.steps() == [3]
        assert checkpoints.damage(3) == []
        file = tmp_path / "3/about/.evaluation.json"
        file.write_text(file.read_text().replace("0.5", "0.1"))
        assert checkpoints.damage(3) == [f"{file}: the checkpoint is damaged, the file does not match its checksum"]


def test_a_foreign_directory_is_not_deleted(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "thesis.txt").write_text("mine")
    with Checkpoints(tmp_path, CheckpointConfig(keep_last=1, keep_best=0)) as checkpoints:
        checkpoints.save(2, make(2))
        checkpoints.save(3, make(3))
    assert (tmp_path / "1" / "thesis.txt").read_text() == "mine"
    assert not (tmp_path / "2").exists()


def test_due():
    checkpoints = Checkpoints("nowhere", CheckpointConfig(every=5))
    assert [step for step in range(12) if checkpoints.due(step)] == [5, 10]
    assert checkpoints.steps() == []
    assert checkpoints.latest() is checkpoints.best() is None
    assert not Path("nowhere").exists()


def test_a_failed_write_is_raised_by_the_next_call_and_by_close(tmp_path, monkeypatch):
    class Full:
        def result(self, timeout=None):
            raise OSError(28, "No space left on device")

    from t2t.checkpoint import store

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make(1))
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(store, "start_write", lambda *arguments: Full())
        for call in (checkpoints.wait, checkpoints.close, lambda: checkpoints.save(3, make(3))):
            checkpoints.save(2, make(2))
            with pytest.raises(CheckpointError, match=r"2: the checkpoint could not be written .*No space left"):
                call()
    # Told once; what was there before is untouched and saving goes on.
    assert checkpoints.save(4, make(4))
    checkpoints.close()
    assert checkpoints.steps() == [1, 4]


def test_a_real_write_error_is_raised(tmp_path):
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    (tmp_path / "file").write_text("in the way")  # it was not there when the directory was checked

    def save():
        checkpoints.save(1, make(1))
        checkpoints.wait()

    with pytest.raises(CheckpointError, match="could not be written"):
        save()


def test_other_shapes_and_names_are_told(saved):
    checkpoints = Checkpoints(saved)
    with pytest.raises(UserError, match=r"7: parameter encoder/w is \[8, 5\] in the checkpoint but \[8, 6\] here"):
        checkpoints.restore(7, abstract(make(7, width=6)))
    wanted = abstract(make(7).params)
    renamed = {"encoder": {"w": wanted["encoder"]["w"], "bias": wanted["encoder"]["b"]}, "frozen": wanted["frozen"]}
    with pytest.raises(UserError, match=r"no parameter encoder/bias, which is \[3\] here. Nearest: encoder/b"):
        checkpoints.restore_params(7, renamed)
    del renamed["encoder"]["bias"]
    with pytest.raises(UserError, match=r"has parameter encoder/b, \[3\], which is unknown here"):
        checkpoints.restore_params(7, renamed)
    sgd = make(7).replace(opt_state=())
    with pytest.raises(UserError, match=r"has training state opt_state/.*unknown here"):
        checkpoints.restore(7, abstract(sgd))
    with pytest.raises(UserError, match=r"no checkpoint of step 9. Nearest: 7"):
        checkpoints.restore_params(9)
    with pytest.raises(UserError, match="there is no checkpoint"):
        Checkpoints(saved / "empty").restore_position(9)


def test_damage_is_told_with_the_file(damaged):
    checkpoints = Checkpoints(damaged)
    metrics = damaged / "7" / "about" / "metrics.json"
    metrics.write_text('{"eval/loss": ')
    with pytest.raises(UserError, match=rf"{metrics}: the checkpoint is damaged"):
        checkpoints.best()
    wide = make(7, width=5000)
    metrics.write_text("{}")
    checkpoints.save(8, wide)
    checkpoints.close()
    arrays = max((damaged / "8" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    arrays.write_bytes(arrays.read_bytes()[:100_000])
    with pytest.raises(UserError, match=rf"{damaged}/8/params.*damaged") as caught:
        checkpoints.restore(8, abstract(wide))
    assert "encoder.w" in str(caught.value)
    assert "\n" not in str(caught.value)
    (damaged / "7" / "training" / "_METADATA").write_text("{")
    with pytest.raises(UserError, match=rf"{damaged}/7/training/_METADATA: the checkpoint is damaged"):
        checkpoints.restore(7, abstract(make()))
    (damaged / "7" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UserError, match=rf"{damaged}/7: not a checkpoint"):
        checkpoints.restore_params(7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, r"every 0 .* Nearest: 1\."),
        ({"keep_last": 0}, r"keep_last 0 .* Nearest: 1\."),
        ({"best_mode": "least"}, "best_mode"),
    ],
)
def test_impossible_configurations_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        CheckpointConfig(**options)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("harm", "said"),
    [(flip, "does not match its checksum"), (cut, "bytes, expected"), (os.unlink, "missing")],
)
def test_every_damaged_file_is_found_by_its_name(damaged, harm, said):
    files = [path for path in sorted((damaged / "7").rglob("*")) if path.is_file() and path.stat().st_size]
    files = [path for path in files if not path.name.startswith("checksums-")]
    assert {path.relative_to(damaged / "7").parts[0] for path in files} >= {"params", "training", "position", "about"}
    for path in files:
        whole = path.read_bytes()
        harm(path)
        (line,) = Checkpoints(damaged).damage(7)
        assert line.startswith(f"{path}: ")
        assert said in line
        assert bool(Checkpoints(damaged).damage(7, params_only=True)) == (
            path.relative_to(damaged / "7").parts[0] == "params"
        )
        path.write_bytes(whole)
    assert Checkpoints(damaged).damage(7) == []


def test_the_newest_good_one_is_used_and_the_others_are_set_aside(damaged):
    with Checkpoints(damaged) as checkpoints:
        for step in (8, 9, 10):
            checkpoints.save(step, make(step))
    flip(max((damaged / "9" / "params").rglob("d/*"), key=lambda path: path.stat().st_size))
    (damaged / "10" / "checksums-00000-of-00001.json").unlink()  # cut off between its arrays and its seal
    said = []
    with Checkpoints(damaged) as checkpoints:
        assert checkpoints.steps() == [7, 8, 9]
        assert checkpoints.newest_good(said.append) == 8
        assert ["10: the checkpoint is incomplete" in said[0], "/9/params/" in said[1], len(said)] == [True, True, 2]
        assert checkpoints.set_aside(8) == [f"{damaged}/9.damaged", f"{damaged}/10.damaged"]
        assert checkpoints.steps() == [7, 8]
        assert checkpoints.save(9, make(90))
        assert_same(checkpoints.restore(9, abstract(make())), make(90))
        for step in (7, 8, 9):
            flip(damaged / str(step) / "about" / "metrics.json")
        with pytest.raises(UserError, match=r"all checkpoints are damaged \(9, 8, 7\)"):
            checkpoints.newest_good(said.append)


def test_old_ones_go_only_after_the_new_one_has_its_checksums(tmp_path, monkeypatch):
    from t2t.checkpoint import checksums

    with Checkpoints(tmp_path, CheckpointConfig(keep_last=1, keep_best=0)) as checkpoints:
        checkpoints.save(1, make(1))
        checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(checksums, "digest", lambda file: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            checkpoints.save(2, make(2))
            with pytest.raises(CheckpointError, match=r"2: the checkpoint could not be written .*Input/output error"):
                checkpoints.wait()
        assert checkpoints.steps() == [1]
        assert checkpoints.damage(1) == []


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
import jax, jax.numpy as jnp
from run_state import State, make
from t2t.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, make(1), {"shard-0": b"one"}, {"eval/loss": 1.0})
checkpoints.wait()
noise = jax.random.normal(jax.random.key(0), (20_000_000,))
checkpoints.save(2, State(step=jnp.int32(2), params={"w": noise}, opt_state=(), key=jax.random.key(0)))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_kill_in_a_save_leaves_the_earlier_steps_and_is_cleared_by_the_next_save(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(HERE)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    left = set(os.listdir(tmp_path)) - {"1"}
    assert left
    assert all("tmp" in name for name in left)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert_same(checkpoints.restore(1, abstract(make())), make(1))
        assert checkpoints.restore_position(1) == {"shard-0": b"one"}
        assert set(os.listdir(tmp_path)) == left | {"1"}
        checkpoints.save(2, make(2))
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]


RESHARDED = """
import sys
sys.path.insert(0, sys.argv[2])
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from run_state import abstract, assert_same, make
from t2t.checkpoint import Checkpoints
assert jax.device_count() == 8
mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
whole = NamedSharding(mesh, P())
target = abstract(make(), whole)
split = jax.ShapeDtypeStruct((8, 5), np.float32, sharding=NamedSharding(mesh, P("data")))
target.params["encoder"]["w"] = split
with Checkpoints(sys.argv[1]) as checkpoints:
    state = checkpoints.restore(7, target)
    assert_same(state, make(7))
    assert state.params["encoder"]["w"].sharding == split.sharding
    assert state.params["encoder"]["w"].addressable_shards[0].data.shape == (2, 5)
    assert state.key.sharding.is_equivalent_to(whole, 0)
    assert checkpoints.save(8, state)
    checkpoints.wait()
    other = NamedSharding(jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2]), P())
    assert_same(checkpoints.restore(8, abstract(make(), other)), make(7))
assert not {"tensorflow", "seqio"} & set(sys.modules), "TensorFlow was imported"
"""


@pytest.mark.slow
def test_other_shardings_and_no_tensorflow(damaged):
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    environment.pop("XLA_FLAGS", None)
    subprocess.run([sys.executable, "-c", RESHARDED, str(damaged), str(HERE)], env=environment, timeout=120, check=True)
    assert_same(Checkpoints(damaged).restore(8, abstract(make())), make(7))


def test_arrays_in_several_pieces_and_above_the_bound_come_back_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_CHUNK", 64)
    monkeypatch.setattr(store, "_IN_FLIGHT", 100)
    state = make(3, width=16)  # its largest array, of 512 bytes, is larger than both
    mesh = jax.make_mesh((4, 2), ("data", "tensor"))
    halves = jax.NamedSharding(mesh, jax.P("data", "tensor"))
    state.params["encoder"]["w"] = jax.device_put(state.params["encoder"]["w"], halves)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(3, state, {}, {})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.damage(3) == []
        assert_same(checkpoints.restore(3, abstract(make(0, width=16))), make(3, width=16))
