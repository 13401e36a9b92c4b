"""Several real processes: the same run as one, stopped together, ended together, gone on with by another number of them."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from t2t.checkpoint import CheckpointConfig
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from tests.faults import rounds
from tests.faults.training import TINY, Setting, Training, arrays, losses

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compiled):
    """A run of one process that was never interrupted."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    training = Training(Setting(directory=directory, devices=4, cache=compiled))
    assert training.join() == [0], training.text()
    return directory


def close(one, other):
    for path, value in one.items():
        np.testing.assert_allclose(value, other[path], rtol=2e-3, atol=2e-5, err_msg=path)


@pytest.mark.parametrize("stopped_by", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_process_stops_all_after_one_step_and_another_number_of_them_goes_on(
    whole, tmp_path, compiled, stopped_by
):
    # Two processes; then four, or one: the same four devices' worth of mesh, the same batches.
    setting = Setting(directory=tmp_path / "run", processes=2, devices=2, cache=compiled)
    training = Training(setting)
    training.wait_for("step 7")
    began = time.monotonic()
    os.kill(training.processes[1].pid, stopped_by)
    assert training.join() == [75, 75], training.text()
    assert time.monotonic() - began < 60
    stopped = int(max(os.listdir(setting.directory / "checkpoints"), key=lambda name: int(name)))
    assert 7 <= stopped < TINY.steps

    processes = 4 if stopped_by == signal.SIGTERM else 1
    training = Training(replace(setting, processes=processes, devices=4 // processes))
    assert training.join() == [0] * processes, training.text()
    assert f"resuming from step {stopped} of {setting.directory}" in training.marked()
    expected, found = losses(whole), losses(setting.directory)
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        # A replayed, lost or reordered batch would change the loss in its first digits.
        assert found[step] == pytest.approx(loss, rel=1e-3), step
    close(arrays(whole), arrays(setting.directory))


def test_a_mesh_across_processes_in_tensor_and_context_reads_each_row_once(whole, tmp_path, compiled):
    # Both processes hold the same rows; one of them tells the position.
    evaluation = Evaluation(tasks=("reverse_words",), every=0, examples=4, batch_size=4, length=8)
    experiment = replace(TINY, mesh=MeshConfig(data=1, context=2, tensor=2), steps=10, evaluation=evaluation)
    setting = Setting(directory=tmp_path / "run", experiment=experiment, processes=2, devices=2, cache=compiled)
    training = Training(setting)
    assert training.join() == [0, 0], training.text()
    for step, loss in losses(setting.directory).items():
        assert loss == pytest.approx(losses(whole)[step], rel=1e-3)
    assert len(os.listdir(setting.directory / "checkpoints" / "10" / "position")) == TINY.data.shards
    assert training.marked().count("eval 10") == 1
    assert json.loads((setting.directory / "eval" / "10.json").read_text())["tasks"]["reverse_words"]["examples"] == 4


def test_a_killed_process_ends_the_others(tmp_path, compiled):
    experiment = replace(TINY, steps=100_000, checkpoint=CheckpointConfig(every=1000))
    training = Training(
        Setting(directory=tmp_path / "run", experiment=experiment, processes=2, devices=2, cache=compiled)
    )
    training.wait_for("step 3")
    began = time.monotonic()
    training.processes[1].kill()
    codes = training.join(40)
    assert None not in codes, "a process was left waiting for ever"
    assert codes[0] not in (0, 75)
    assert (
        time.monotonic() - began < 25
    )  # JAX's own heartbeat is 8 s; the launcher, which watches its processes, is quicker
    assert "heartbeat" in training.text() or "Connection" in training.text() or "peer" in training.text()


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_rounds_of_kills_end_as_if_nothing_had_happened(number, tmp_path):
    (result,) = rounds.rounds(1, seed=0, processes=1, work=tmp_path, first=number)
    assert result.struck
    assert result.mismatches == []
