"""The report: one page that needs nothing, tells what there is, and lets no text become markup."""

import json
import math
import random
from html.parser import HTMLParser

import pytest

from t2t.api.report import marked, write_report
from t2t.errors import UserError
from t2t.train.metric_log import MetricsWriter

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>&amp;\"'"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """A page's text, tags and attributes; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.texts = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "quick"
    with MetricsWriter(directory) as writer:
        for step in range(10, 101, 10):
            writer.write(
                step,
                {
                    "loss": 100 / step,
                    "learning_rate": 0.01,
                    "tokens_per_second": 1234.0,
                    "step_seconds": 1e-6,
                    "data_wait": 0.0,
                },
            )
            if step % 50 == 0:
                writer.write(step, {"eval/add/exact_match": step / 200, "eval/add/loss": 1.0, "eval/docs/loss": 2.0})
    model = {"class": "t2t.models.encoder_decoder.EncoderDecoderConfig", "vocab_size": 384}
    experiment = {
        "class": "E",
        "model": model,
        "data": {"class": "Data", "task": "mixed"},
        "steps": 100,
        "optimizer": {"class": "Adafactor", "decay_rate": 0.8},
    }
    (directory / "run.json").write_text(json.dumps({"class": "R", "recipe": "t5:quickstart", "experiment": experiment}))
    (directory / "machine.json").write_text(
        json.dumps({"cpu": "a processor", "devices": [{"platform": "cpu", "kind": "cpu", "count": 8}]})
    )
    (directory / "ledger.jsonl").write_text(
        '{"began": 0, "time": 60, "start": 0, "step": 60, "seconds": {"start": 10, "train": 45, "data": 5}}\n'
        '{"began": 70, "time": 100, "start": 60, "step": 100, "seconds": {"start": 10, "train": 20}}\n'
    )
    rows = [
        {"inputs": "add: 1 + 1", "targets": "2", "prediction": "2", "correct": True},
        {"inputs": "add: 1 + 2", "targets": "3", "prediction": "4", "correct": False},
        {"inputs": "sum up", "targets": "one two", "prediction": "one three"},
    ]
    (directory / "eval" / "100").mkdir(parents=True)
    result = {"split": "validation", "examples": 3, "trimmed": 1, "metrics": {"exact_match": 0.5}}
    (directory / "eval" / "100.json").write_text(json.dumps({"step": 100, "tasks": {"add": result}}))
    (directory / "eval" / "100" / "add.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory


def test_a_run_in_full(run):
    path = write_report(run)
    assert path == run / "report.html"
    page = Page(path.read_text())
    assert page.text.startswith(
        "quick: t5:quickstart quick: t5:quickstart An encoder-decoder trained on mixed for 100 steps in"
    )
    for shown in (
        "on 8 cpu. At the end: training loss 1.000, add exact match 0.500, docs loss 2.000.",
        "✓ right add: 1 + 1 2 2",
        "✗ wrong add: 1 + 2 3 4",
        "≠ differs sum up one two one three",
        "optimizer Adafactor decay_rate 0.8",
        "cpu a processor",
        "65.0% of the time since the start of the run went into training steps that were kept (goodput), over 2 starts.",
        "computing steps 1:05 65.0%",
        "between two starts 10s 10.0%",
        "step exact_match loss 50 0.250 1.000 100 0.500 1.000",
        "3 of 3 (eval/100/add.jsonl)",
        "add 3 examples of validation, 1 of them trimmed to fit",
        "training eval add eval docs",  # the legend of the losses
    ):
        assert shown in page.text, shown
    assert (
        page.tags.count("svg") == 5
    )  # loss, learning rate, tokens, waiting, exact match: and no picture of the steps' seconds
    assert sorted(entry.name for entry in run.iterdir()) == [
        "eval",
        "ledger.jsonl",
        "machine.json",
        "metrics.jsonl",
        "report.html",
        "run.json",
        "tensorboard",
    ]


def test_the_page_loads_nothing(run):
    page = Page(write_report(run).read_text())
    assert not {"script", "link", "iframe", "img", "object"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith("#")
        assert "url(" not in (value or "").replace("url(#", "")


def test_no_text_becomes_markup(tmp_path):
    directory = tmp_path / "run <b>"
    with MetricsWriter(directory) as writer:
        writer.write(1, {"loss": 1.0, EVIL.replace("/", ""): 2.0, f"eval/{EVIL}/{EVIL.replace('/', '')}": 1.0})
    nest = {"class": EVIL, EVIL: EVIL, "data": {"task": EVIL}, "model": {"class": EVIL, EVIL: [EVIL]}}
    (directory / "run.json").write_text(json.dumps({"recipe": EVIL, "experiment": nest}))
    (directory / "machine.json").write_text(json.dumps({EVIL: EVIL, "devices": [{"kind": EVIL}]}))
    (directory / "eval" / "1").mkdir(parents=True)
    row = {"inputs": EVIL, "targets": EVIL, "prediction": EVIL + " more"}
    (directory / "eval" / "1" / "task <i>.jsonl").write_text(json.dumps(row) + "\n" + "<broken>\n")
    page = Page(write_report(directory).read_text())
    assert not {"script", "img"} & set(page.tags)
    assert "run <b>" in page.text
    assert "task <i>" in page.text
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert page.text.count("<script>alert(1)") >= 10


@pytest.mark.parametrize("missing", ["run.json", "machine.json", "metrics.jsonl", "eval"])
def test_what_is_missing_is_told_and_the_rest_shown(run, missing):
    if missing == "eval":
        (run / "eval" / "100" / "add.jsonl").unlink()
    else:
        (run / missing).unlink()
    page = Page(write_report(run).read_text())
    assert (f"{missing} is missing" in page.text) == (missing != "eval")
    assert ("✓ right" in page.text) == (missing != "eval")
    assert ("Learning rate" in page.text) == (missing != "metrics.jsonl")
    assert "Evaluation: exact_match" in page.text


def test_an_empty_directory_and_none(tmp_path):
    assert "no step has been logged yet" in Page(write_report(tmp_path).read_text()).text
    with pytest.raises(UserError, match="no run directory"):
        write_report(tmp_path / "nothing")


@pytest.mark.parametrize("seed", range(20))
def test_odd_values_anywhere_never_break_the_page(tmp_path, seed):
    choose = random.Random(seed)

    def odd(depth=0):
        kinds = [None, True, -1, 1.5, "text", "\ud800", "", [], {}, 10**30]
        if depth < 3:
            kinds += [[odd(depth + 1)], {name: odd(depth + 1) for name in ("class", "task", "kind", "count", "x")}] * 2
        return choose.choice(kinds)

    names = ("experiment", "recipe", "model", "data", "steps", "devices", "parameters", "class")
    (tmp_path / "run.json").write_text(
        json.dumps({name: odd() for name in names} | {"experiment": {name: odd() for name in names}})
    )
    (tmp_path / "machine.json").write_text(json.dumps({name: odd() for name in names}))
    line = {"step": 1, "loss": odd(), "step_seconds": odd(), "elapsed": odd(), "data_wait": odd(), "eval/a/b": odd()}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({"step": 2, "loss": 1.0}) + "\n")
    (tmp_path / "eval" / "1").mkdir(parents=True)
    (tmp_path / "eval" / "1.json").write_text(
        json.dumps(
            {"tasks": choose.choice([odd(), {"a": odd(), "b": {"metrics": odd()}, "c": {"metrics": {"d": odd()}}}])}
        )
    )
    rows = [{name: odd() for name in ("inputs", "targets", "prediction", "correct")} for _ in range(5)]
    (tmp_path / "eval" / "1" / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Page(write_report(tmp_path).read_text())


def test_not_finite_values_are_told(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step, loss in ((1, 2.0), (2, math.nan), (3, math.inf)):
            writer.write(step, {"loss": loss})
    page = Page(write_report(tmp_path).read_text())
    assert "2 values not finite, the first at step 2 (training)" in page.text
    assert "loss inf" in page.text


def test_long_tables_keep_their_first_and_last_row_and_say_what_is_left_out(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        for step in range(1, 101):
            writer.write(step, {"eval/add/exact_match": 0.5})
    page = Page(write_report(tmp_path).read_text())
    assert "88 evaluations in between are not shown" in page.text
    assert "exact_match 1 0.500" in page.text
    assert "100 0.500" in page.text


def test_differences_are_marked_and_no_text_is_lost():
    pieces = marked("the cat sat", "the big cat sat!")
    assert "".join(piece for _, piece in pieces) == "the big cat sat!"
    assert "".join(piece for differs, piece in pieces if differs).split() == ["big!"]
    assert marked("same", "same") == [(False, "same")]
    assert marked("", "") == []
