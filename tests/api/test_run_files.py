"""A run directory is read as far as it goes, and what is missing is told."""

import json
import math

import pytest

from t2t.api.run_files import by_task, read_run
from t2t.errors import UserError


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_an_empty_directory_has_nothing_and_says_so(tmp_path):
    run = read_run(tmp_path)
    assert (run.config, run.machine, run.log, run.series, run.evaluations, run.predictions) == ({}, {}, [], {}, {}, [])
    assert run.notes == ["run.json is missing", "machine.json is missing", "metrics.jsonl is missing"]


def test_a_missing_directory_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="no run directory"):
        read_run(tmp_path / "nothing")


def test_broken_files_are_named_and_the_rest_is_read(tmp_path):
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "machine.json").write_text("[]")
    write_lines(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    write_lines(tmp_path / "eval" / "1" / "add.jsonl", [{"prediction": "3"}, [1], {"prediction": "4"}])
    run = read_run(tmp_path)
    assert run.series == {"loss": [(1, 2.0)]}
    assert [note.split()[0] for note in run.notes] == ["run.json", "machine.json", "eval/1/add.jsonl:"]
    (predictions,) = run.predictions
    assert (predictions.rows, predictions.total) == ([{"prediction": "3"}, {"prediction": "4"}], 2)


def test_series_and_evaluations_come_from_the_log_and_the_evaluations_files(tmp_path):
    lines = [
        {"step": 10, "time": 1.0, "elapsed": 1.0, "loss": 3.0, "accuracy": "nan"},
        {"step": 10, "time": 2.0, "elapsed": 2.0, "eval/add/exact_match": 0.5},
        {"step": 20, "time": 3.0, "elapsed": 3.0, "loss": 2.0},
    ]
    write_lines(tmp_path / "metrics.jsonl", lines)
    add = {"split": "test", "examples": 2000, "trimmed": 3, "metrics": {"exact_match": 0.75, "loss": "nan"}}
    sort = {"split": "test", "examples": 10, "trimmed": 0, "metrics": {"loss": 1.5}}
    write_lines(tmp_path / "eval" / "20.json", [{"step": 20, "tasks": {"add": add, "sort": sort, "odd": None}}])
    write_lines(tmp_path / "eval" / "30.json", [{"tasks": []}])
    run = read_run(tmp_path)
    assert run.series["loss"] == [(10, 3.0), (20, 2.0)]
    assert math.isnan(run.series["accuracy"][0][1])
    assert set(run.series) == {"loss", "accuracy"}
    assert run.evaluations["sort"] == {20: {"loss": 1.5}}
    assert run.evaluations["add"][10] == {"exact_match": 0.5}
    assert run.evaluations["add"][20]["exact_match"] == 0.75
    assert math.isnan(run.evaluations["add"][20]["loss"])
    assert run.evaluated == {
        "add": "2,000 examples of test, 3 of them trimmed to fit",
        "sort": "10 examples of test",
    }
    assert run.notes[-2:] == [
        "eval/20.json: task odd has no metrics",
        "eval/30.json could not be read: its tasks are not a JSON object",
    ]


def test_each_task_has_its_newest_predictions_by_number_not_by_name(tmp_path):
    for step in (9, 10, 100):
        write_lines(tmp_path / "eval" / str(step) / "add.jsonl", [{"prediction": step}] * 20)
    write_lines(tmp_path / "eval" / "9" / "sort.jsonl", [{"prediction": 9}])
    run = read_run(tmp_path, rows=3)
    assert [(p.task, p.step, len(p.rows), p.total) for p in run.predictions] == [("add", 100, 3, 20), ("sort", 9, 1, 1)]
    assert run.predictions[0].rows[0] == {"prediction": 100}


def test_tasks_may_have_slashes():
    assert by_task({"eval/a/b/loss": 1, "eval/c/loss": 2, "loss": 3}) == {
        "a/b": {"loss": 1},
        "c": {"loss": 2},
        "all": {"loss": 3},
    }
