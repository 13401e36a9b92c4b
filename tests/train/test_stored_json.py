"""JSON files of a run that are damaged: named in one line, or, in a report, passed over with a note."""

import json

import pytest

from t2t.api.run_files import read_run
from t2t.errors import UserError
from t2t.train import ledger, metric_log
from t2t.train.results import EvalResult, write

BROKEN = [b"[" * 100_000, b"9" * 5000, b"\xff\xfe{}", b"{", b'{"a": 1, "a": 2}', b"null", b'{"tasks": 5}']


@pytest.mark.parametrize("content", BROKEN)
def test_an_evaluation_that_is_damaged_is_named(content, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "5.json").write_bytes(content)
    with pytest.raises(UserError, match=r"5\.json"):
        write(tmp_path, 5, [EvalResult(task="t", split="s", examples=1, trimmed=0, metrics={}, predictions=[])])


@pytest.mark.parametrize("content", BROKEN)
def test_metrics_that_are_damaged_name_their_line(content, tmp_path):
    (tmp_path / metric_log.FILE).write_bytes(b'{"step": 1}\n' + content + b'\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        metric_log.read(tmp_path)


LINE = {"began": 1.0, "time": 3.0, "step": 2, "start": 0, "seconds": {"train": 2.0}}


@pytest.mark.parametrize(
    "content",
    [
        *BROKEN,
        *(
            json.dumps({**LINE, name: value}).encode()
            for name in LINE
            for value in (None, "x", [1], {"a": "b"}, float("nan"))
        ),
        *(json.dumps({k: v for k, v in LINE.items() if k != name}).encode() for name in LINE),
    ],
)
def test_a_ledgers_broken_line_is_left_out(content, tmp_path):
    whole = json.dumps(LINE).encode()
    (tmp_path / ledger.FILE).write_bytes(whole + b"\n" + content + b"\n")
    account = ledger.read(tmp_path)
    assert (account.seconds["train"], account.processes) == (2.0, 1)


@pytest.mark.parametrize("content", BROKEN)
def test_a_report_notes_what_it_cannot_read(content, tmp_path):
    (tmp_path / "eval" / "5").mkdir(parents=True)
    for name in ("run.json", "machine.json", metric_log.FILE, "eval/5.json", "eval/5/t.jsonl"):
        (tmp_path / name).write_bytes(content + b"\n")
    notes = "\n".join(read_run(tmp_path).notes)
    assert "5.json" in notes or b"null" in content
    assert metric_log.FILE in notes
    assert ("t.jsonl" in notes) == (content != b'{"tasks": 5}')
