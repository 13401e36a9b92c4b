"""A training that dies at any moment before its first step, with code of the user's: the same command goes on, and a run is never without its code."""

import dataclasses
import os
import sys

import pytest

from t2t.api.importing import experiment_for
from t2t.errors import UserError
from t2t.train import own_code
from t2t.train.own_code import checksum
from t2t.train.run import RunRecord, open_run, read_record
from t2t.vocabularies import Bytes
from tests.models.tiny import config

CODE = {"mine.py": b"x = 1\n", "package/__init__.py": b"", "package/part.py": b"y = 2\n"}
NEWER = {"mine.py": b"x = 3\n", "package/__init__.py": b""}
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}

_left: list[int] = []


class Died(BaseException):
    pass


def _hook(event, arguments):
    # Python announces each of these before it does it; what is raised here keeps it from happening.
    if not _left or event not in EVENTS:
        return
    if event == "open" and not (isinstance(arguments[1], str) and arguments[1][:1] in "wax"):
        return
    _left[0] -= 1
    if _left[0] < 0:
        raise Died(f"{event} {os.fsdecode(arguments[0])}")


sys.addaudithook(_hook)


def _dies(after, do):
    """Do something that dies before its file operation number `after`; return whether it did."""
    _left.append(after)
    try:
        do()
        return False
    except Died:
        return True
    finally:
        _left.clear()


def _record(code):
    return RunRecord(
        recipe="r",
        experiment=experiment_for(config("gpt", vocab_size=304)),
        vocabulary=Bytes(),
        imports=("mine.py",),
        code={path: checksum(content) for path, content in code.items()},
    )


def test_a_death_at_any_operation_leaves_what_the_same_command_goes_on_with(tmp_path):
    after = 0
    while True:
        directory = tmp_path / str(after)
        if not _dies(after, lambda at=directory: open_run(at, _record(CODE), CODE)):
            break
        open_run(directory, _record(CODE), CODE)
        assert own_code.read(directory, read_record(directory).code) == CODE
        assert not list(directory.rglob("*.partial"))
        after += 1
    assert after > 10


def test_a_death_at_any_operation_of_going_on_leaves_a_run_with_its_code(tmp_path):
    after, seen = 0, set()
    while True:
        directory = tmp_path / str(after)
        open_run(directory, _record(CODE), CODE)
        (directory / "metrics.jsonl").write_text('{"step": 1}\n')
        if not _dies(after, lambda at=directory: open_run(at, _record(NEWER), NEWER)):
            break
        code = own_code.read(directory, read_record(directory).code)
        assert code in (CODE, NEWER)
        seen.add(len(code))
        open_run(directory, _record(NEWER), NEWER)
        assert own_code.read(directory, read_record(directory).code) == NEWER
        assert not list(directory.rglob("*.partial"))
        after += 1
    assert seen == {len(CODE), len(NEWER)}


def test_going_on_without_code_keeps_what_a_death_left_beside_it(tmp_path):
    open_run(tmp_path, _record(CODE), CODE)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    own_code.prepare(tmp_path, NEWER)
    kept = dataclasses.replace(_record(CODE), imports=(), code={})
    record = open_run(tmp_path, kept)
    assert own_code.read(tmp_path, record.code) == CODE


def test_files_that_are_not_ours_are_kept_and_named(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "thesis.py").write_text("years of work")
    with pytest.raises(UserError, match=r"is not empty and is not a run: it has code but no run.json"):
        open_run(tmp_path, _record(CODE), CODE)
    assert (tmp_path / "code" / "thesis.py").read_text() == "years of work"
