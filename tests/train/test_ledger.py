from __future__ import annotations

import json
from pathlib import Path

import pytest

from t2t.train import ledger


def line(began, time, begun_from, step, **seconds):
    return json.dumps({"began": began, "time": time, "start": begun_from, "step": step, "seconds": seconds}) + "\n"


def test_time_that_was_trained_again_is_lost_and_time_between_processes_is_down(tmp_path):
    (tmp_path / ledger.FILE).write_text(
        line(100, 120, 0, 10, start=5, train=15)
        + line(100, 130, 0, 20, start=5, train=25)
        + line(100, 140, 0, 30, start=5, train=33, save=2)  # killed here; its newest checkpoint was of step 20
        + line(150, 170, 20, 40, start=4, train=16)
        + '{"began": 150, "ti'  # cut off
    )
    account = ledger.read(tmp_path)
    assert account.processes == 2
    assert account.seconds["lost"] == 8
    assert account.seconds["train"] == 25 + 16
    assert account.seconds["down"] == 10
    assert account.seconds["start"] == 9
    assert sum(account.seconds.values()) == 70
    assert account.goodput == pytest.approx(41 / 70)


def test_kinds_add_up_to_the_time_that_passed():
    times = ledger.Ledger(began=0.0)
    with times.time("restore"):
        pass
    times.training()
    with times.time("eval"):
        pass
    record = json.loads(times.line(7, 0, waited=0.0))
    assert sum(record["seconds"].values()) == pytest.approx(record["time"], abs=0.1)
    assert ledger.read(Path("nowhere")).goodput == 0


def test_time_that_was_trained_before_a_rewind_is_lost(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(ledger.time, "time", lambda: now[0])
    times = ledger.Ledger(began=100.0)
    times.training()
    written = ""
    for clock, step in ((110, 10), (118, 14)):
        now[0] = clock
        written += times.line(step, 0, waited=0.0)
    now[0] = 121.0
    times.go_back(10, waited=0.0)  # 11 s since the line of step 10
    now[0] = 130.0
    written += times.line(13, 0, waited=0.0)
    (tmp_path / ledger.FILE).write_text(written)
    account = ledger.read(tmp_path)
    assert account.seconds["lost"] == 11
    assert account.seconds["train"] == 30 - 11

    # Another process begins from step 10: what was trained of 13 is lost too, and no line of before the rewind counts for it.
    (tmp_path / ledger.FILE).write_text(written + line(140, 150, 10, 20, train=10))
    assert ledger.read(tmp_path).seconds["lost"] == 11 + 9
    assert ledger.read(tmp_path).seconds["train"] == 10 + 10
