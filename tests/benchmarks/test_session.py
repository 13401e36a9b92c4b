"""The protocol, the turns peers take, and what becomes of a peer that fails."""

import json
import sys
import time

import pytest

from benchmarks.cases import Case
from benchmarks.session import Session
from benchmarks.table import rows

CASES = {model: Case(work="train", model=model, scale="tiny", optimizer="adamw") for model in ("t5", "gpt2", "bert")}
CASES |= {model: Case(work="train", model=model, scale="tiny", optimizer="adamw") for model in ("llama", "decoder")}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    directory = tmp_path_factory.mktemp("session")
    log = directory / "order"
    commands = {
        name: [sys.executable, "-m", "tests.benchmarks.made_up", name, factor, str(log)]
        for name, factor in (("ours", "1"), ("theirs", "3"))
    }
    out = directory / "results.json"
    with Session(commands, out, threads=1, log=lambda line: None, limit=30.0) as made:
        for model, rounds in (("t5", 2), ("bert", 1), ("llama", 1), ("gpt2", 2), ("t5", 1)):
            made.measure(CASES[model], rounds=rounds, repeats=3)
        made._limit = 1.0
        began = time.monotonic()
        made.measure(CASES["decoder"], rounds=2, repeats=3)
        made.save()
        yield json.loads(out.read_text()), log.read_text().splitlines(), time.monotonic() - began


def of(session, place):
    return session[0]["cases"][place]["peers"]


def test_peers_take_turns_and_another_begins_each_round(session):
    assert session[1][:4] == ["ours t5", "theirs t5", "theirs t5", "ours t5"]
    assert of(session, 0)["theirs"]["rounds"] == [[3.0, 6.0, 90.0]] * 2
    assert session[0]["peers"]["theirs"]["versions"] == {"made_up": "1.0"}


def test_the_table_has_ratios_of_medians(session):
    ours, theirs = rows(session[0])[:2]
    assert (ours.seconds, ours.rate, ours.ratio) == (2.0, 50.0, 1.0)
    assert (theirs.seconds, theirs.ratio, theirs.lowest, theirs.highest) == (6.0, 3.0, 3.0, 3.0)


def test_what_a_peer_does_not_have_is_told(session):
    assert {facts["unsupported"] for facts in of(session, 1).values()} == {"no such network"}


def test_an_error_while_preparing_keeps_no_other_peer_from_it(session):
    assert of(session, 2)["theirs"]["error"] == "ValueError: nothing"
    assert "Traceback" in of(session, 2)["theirs"]["trace"]
    assert len(of(session, 2)["ours"]["rounds"]) == 1


def test_a_peer_that_dies_is_told_and_started_again_for_the_next_case(session):
    assert "theirs ended (exit code 3)" in of(session, 3)["theirs"]["error"]
    assert len(of(session, 3)["ours"]["rounds"]) == 2
    assert of(session, 4)["theirs"]["rounds"]


def test_a_peer_that_does_not_answer_is_ended(session):
    assert "did not answer within 1 seconds" in of(session, 5)["theirs"]["error"]
    assert len(of(session, 5)["ours"]["rounds"]) == 2
    assert session[2] < 20


def test_what_a_peer_does_in_the_others_turns_is_its_own(tmp_path):
    commands = {
        name: [sys.executable, "-m", "tests.benchmarks.made_up", name, "1", str(tmp_path / "log")]
        for name in ("slow", "ahead")
    }
    with Session(commands, tmp_path / "results.json", threads=1, log=lambda line: None, limit=30.0) as made:
        made.measure(CASES["t5"], rounds=3, repeats=1)
    slow, ahead = (json.loads((tmp_path / "results.json").read_text())["cases"][0]["peers"][name] for name in commands)
    # What it began in its first two turns, and did in the second of the other, which waits for it there.
    assert ahead["cpu"][2] > 0.4
    assert slow["idle"][1] > 0.4
    assert max(slow["cpu"]) < 0.4
