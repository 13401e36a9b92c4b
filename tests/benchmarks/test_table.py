"""Medians, ratios, shares and the picture, of made-up results."""

from dataclasses import asdict

from benchmarks.cases import Case
from benchmarks.table import picture, rows, text

TRAIN = Case(work="train", model="t5", optimizer="adafactor")
DATA = Case(work="data", model="span_corruption")


def results():
    ours = {
        "tokens": 100,
        "flops": 8.0,
        "rounds": [[1.0, 4.0, 1.0], [2.0, 2.0, 2.0]],
        "cpu": [2.0, 2.0],
        "idle": [0.0, 0.0],
    }
    theirs = {"tokens": 200, "rounds": [[6.0, 6.0, 6.0], [4.0, 6.0, 9.0]], "cpu": [3.0, 3.0], "idle": [0.0, 18.5]}
    cases = [
        {"name": case.name, "case": asdict(case), "peers": {"ours": ours, "theirs": theirs}} for case in (TRAIN, DATA)
    ]
    cases[1]["peers"] = {**cases[1]["peers"], "third": {"unsupported": "has no data"}}
    return {"ceilings": {"matmul": {"float32": 16.0}}, "cases": cases}


def test_ratios_are_of_seconds_a_token():
    ours, theirs = rows(results())[:2]
    assert (ours.seconds, ours.ratio, ours.share) == (2.0, 1.0, 0.25)
    assert (theirs.seconds, theirs.rate, theirs.ratio) == (6.0, 200 / 6, 1.5)
    assert (theirs.lowest, theirs.highest) == (1.5, 3.0)
    assert theirs.share == 8.0 / 6.0 / 16.0


def test_data_counts_the_processor():
    ours, theirs, third = rows(results())[2:]
    assert (ours.seconds, ours.rate) == (2 / 3, 150.0)
    assert (theirs.seconds, theirs.ratio) == (1.0, 0.75)
    assert (third.seconds, third.note) == (None, "has no data")


def test_the_text_tells_of_peers_that_were_not_idle():
    lines = text(results()).splitlines()
    assert lines[2] == "| train: t5 adafactor | ours | 2 | 50 | 1.00 (1.00 to 1.00) | 25% |  |"
    assert "idle peers used 50% of a core" in lines[3]


def test_without_a_ceiling_or_ours_there_is_no_share_and_no_ratio():
    alone = results()
    del alone["ceilings"], alone["cases"][0]["peers"]["ours"]
    theirs = rows(alone)[0]
    assert (theirs.share, theirs.ratio, theirs.seconds) == (None, None, 6.0)


def test_the_picture(tmp_path):
    assert picture(results(), tmp_path / "ratios.svg")
    assert "1.50" in (tmp_path / "ratios.svg").read_text()
    assert not picture({"cases": []}, tmp_path / "none.svg")
