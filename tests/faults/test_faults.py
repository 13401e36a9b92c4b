"""What clusters do to a run: a step that hangs, a disk that is full or read-only, a data file that is gone."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from dataclasses import replace

import pytest

from t2t.checkpoint import CheckpointConfig, Checkpoints
from t2t.train.guard import Guard
from tests.faults.training import TINY, Setting, Training

pytestmark = pytest.mark.faults


def hang(setting, rank):
    """Let the data stop after some batches, as a network file system does."""
    from t2t.data.pipeline import BatchIterator

    take, taken = BatchIterator._take, []

    def stuck(self, rows):
        taken.append(1)
        if len(taken) > 6:
            time.sleep(1000)
        return take(self, rows)

    BatchIterator._take = stuck


def test_a_step_that_takes_too_long_ends_the_process_and_shows_every_threads_stack(tmp_path, compiled):
    experiment = replace(TINY, guard=Guard(step_seconds=25))
    setting = Setting(
        directory=tmp_path / "run", experiment=experiment, cache=compiled, prepare="tests.faults.test_faults:hang"
    )
    training = Training(setting)
    assert training.join(180) == [1]
    assert "took longer than 25 s (--guard.step-seconds)" in training.text()
    assert "in train" in training.text()
    assert "in stuck" in training.text()


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"only root may mount: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(path):
    """Write until nothing goes in any more."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)


LONG = replace(TINY, steps=100_000, checkpoint=CheckpointConfig(every=20, keep_last=2))


def test_a_full_disk_ends_the_run_with_one_clear_error_and_the_last_checkpoint_whole(disk, tmp_path, compiled):
    setting = Setting(directory=disk / "run", experiment=LONG, cache=compiled)
    # Marks and log lie beside the run, on the disk that fills up.
    setting = replace(setting, aside=tmp_path)
    training = Training(setting)
    training.wait_for("step 45")
    filler = disk / "filler"
    fill(filler)
    assert training.join() == [1]
    last = training.text().strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "No space left on device" in last
    with Checkpoints(setting.directory / "checkpoints") as checkpoints:
        steps = checkpoints.steps()
        assert steps
        assert all(checkpoints.damage(step) == [] for step in steps)
    filler.unlink()
    training = Training(replace(setting, experiment=replace(LONG, steps=steps[-1] + 3)))
    assert training.join() == [0], training.text()
    assert any(line.startswith(f"resuming from step {steps[-1]}") for line in training.marked())


def test_a_directory_that_turns_read_only_ends_the_run_with_one_clear_error(disk, tmp_path, compiled):
    setting = Setting(directory=disk / "run", experiment=LONG, cache=compiled, aside=tmp_path)
    training = Training(setting)
    training.wait_for("step 25")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=False, capture_output=True)
    # A file system with a file open for writing cannot turn read-only; a bind mount over it can.
    bound = subprocess.run(["mount", "--bind", str(disk), str(disk)], capture_output=True)
    assert bound.returncode == 0
    subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
    try:
        assert training.join() == [1]
        last = training.text().strip().splitlines()[-1]
        assert last.startswith("error: ")
        assert "Read-only file system" in last
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def reading_lines(setting, rank):
    """Register a task over a text file that the test will remove."""
    from t2t import tasks

    path = setting.directory.parent / "lines.jsonl"
    tasks.add(
        "faults_lines",
        source=tasks.sources.jsonl({"train": str(path)}),
        inputs="question",
        targets="answer",
    )


def test_a_vanished_data_file_is_named_and_the_last_checkpoint_is_whole(tmp_path, compiled):
    data = tmp_path / "lines.jsonl"
    rows = [json.dumps({"question": f"what is {n}", "answer": str(n)}) for n in range(64)]
    data.write_text("\n".join(rows) + "\n")
    experiment = replace(LONG, data=replace(LONG.data, task="faults_lines"))
    setting = Setting(
        directory=tmp_path / "run",
        experiment=experiment,
        cache=compiled,
        prepare="tests.faults.test_faults:reading_lines",
    )
    training = Training(setting)
    training.wait_for("step 25")
    data.unlink()
    codes = training.join(120)
    assert codes in ([1], [2])
    last = training.text().strip().splitlines()[-1]
    assert str(data) in last
    with Checkpoints(setting.directory / "checkpoints") as checkpoints:
        assert checkpoints.damage(checkpoints.latest()) == []
