"""The comparison of ways to fine-tune: their options are options of `t2t train`, and what is read of a process and of a run is what is there."""

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.little_memory.cases import suites, words
from benchmarks.little_memory.steps import table
from benchmarks.little_memory.trainings import bytes_of, evaluation, peak_memory
from t2t.launch.experiment import experiment_of, recipe_of


def test_the_options_are_those_of_trainings_of_the_same_steps_and_batches():
    bases = {"instructions": "llama:3.2-1b", "classification": "bert:base"}
    for name, suite in suites().items():
        base = recipe_of(bases[name], assume=True)()
        made = {
            label: experiment_of(base, words(suite, way, peak), prog="test", about="", own=())
            for label, way in suite.ways.items()
            for peak in way.peaks
        }
        assert {(it.steps, it.data, it.optimizer.schedule.steps) for it in made.values()} == {
            (suite.steps, made["full"].data, suite.steps)
        }
        assert [label for label, it in made.items() if it.adapter.enabled] == [it for it in made if it != "full"]
        assert suite.tasks.is_file()
    assert made["LoRA"].adapter.trained == ("answer/**",)  # the new head


def test_the_peak_is_that_of_the_process_and_a_failure_is_one():
    size = 600 << 20
    code = f"x = bytearray(b'1') * {size}; del x"  # freed before the end
    ours = bytearray(b"1") * (2 * size)  # the memory of this process is not counted
    small, large = (peak_memory([sys.executable, "-c", text]) for text in ("", code))
    del ours
    assert small < size // 2 < size <= large < size + size // 2
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3"):
        peak_memory([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(subprocess.CalledProcessError, match="SIGKILL"):
        peak_memory([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


def test_the_result_is_that_of_the_last_evaluation(tmp_path):
    suite = suites()["classification"]
    task = suite.task
    lines = [{f"eval/{task}/loss": 3.0, f"eval/{task}/accuracy": 0.1}, {"loss": 1.0}]
    lines += [{f"eval/{task}/loss": 2.0, f"eval/{task}/accuracy": 0.5}, {"loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert evaluation(tmp_path, suite) == (2.0, 0.5)
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "array.npy", np.zeros(100))
    assert bytes_of(tmp_path / "in") == 128 + 800


def test_the_table_compares_without_the_bytes_of_the_program():
    memory = {
        "parameters": 1e6,
        "gradients": 2e6,
        "optimizer": 3e6,
        "activations": 4e6,
        "temporaries": 5e6,
        "code": 1e6,
    }
    values = {"estimate": {**memory, "total": 16e6}, "compiled": {**memory, "total": 13e6}, "peak": 15e6}
    made = table({"some way": values, "times": {"wall": {}}})
    assert made.lines == [["some way", "1", "2", "3", "4", "5", "15", "12", "15", "1.00", "0.80"]]
    assert len(made.header) == len(made.lines[0])
