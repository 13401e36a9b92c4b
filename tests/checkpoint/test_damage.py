"""What is wrong with a checkpoint's files: one line, nothing else printed; and what cannot be read for now is not damaged."""

import errno
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from t2t.checkpoint import CheckpointConfig, Checkpoints, checksums, store
from t2t.errors import Failure, UserError
from tests.checkpoint.run_state import abstract, make
from tests.damage import told

SEAL = "checksums-00000-of-00001.json"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with the checkpoints 7 and 8; not to be changed."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        for step in (7, 8):
            checkpoints.save(step, make(step), {"shard-0": b"ab"}, {"eval/loss": 2.5})
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(saved, tmp_path / "copy")


def reseal(step):
    """Write the checksums anew, so that they fit the files."""
    found = {}
    for path in step.rglob("*"):
        if path.is_file() and not path.name.startswith("checksums-"):
            content = path.read_bytes()
            found[str(path.relative_to(step))] = [len(content), hashlib.sha256(content).hexdigest()]
    (step / SEAL).write_text(json.dumps(found))


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"null",
        b"{}",
        b'{"params/x": 5}',
        b'{"params/x": "5"}',
        b'{"params/x": [5]}',
        b'{"params/x": ["5", 5]}',
        b'{"params/x": [true, "a"]}',
        b'{"../../x": [5, "a"]}',
        b'{"/etc/passwd": [5, "a"]}',
        b"[" * 100_000,
        b"\xff\xfe{}",
        b"",
    ],
)
@pytest.mark.parametrize("params_only", [False, True])
def test_checksums_that_are_none_are_damage(copy, content, params_only):
    (copy / "8" / SEAL).write_bytes(content)
    said = []
    assert Checkpoints(copy).newest_good(said.append, params_only=params_only) == 7
    (line,) = said
    assert line.startswith(f"{copy}/8/")
    assert "\n" not in line


def test_a_file_that_the_checksums_do_not_name_is_damage(copy):
    names = json.loads((copy / "8" / SEAL).read_text())
    del names["params/_METADATA"]
    (copy / "8" / SEAL).write_text(json.dumps(names))
    (line,) = Checkpoints(copy).damage(8)
    assert line == f"{copy}/8/params/_METADATA: the checkpoint is damaged, this file is not in its checksums"
    (copy / "7" / "position" / "shard-9").write_bytes(b"more")
    (line,) = Checkpoints(copy).damage(7)
    assert "position/shard-9" in line
    assert Checkpoints(copy).damage(7, params_only=True) == []


def test_parts_of_two_seals_are_no_seal(copy):
    shutil.copy(copy / "8" / SEAL, copy / "8" / "checksums-00000-of-00002.json")
    assert Checkpoints(copy).steps() == [7]


def test_a_link_out_of_the_checkpoint_is_damage(copy, tmp_path):
    path = copy / "8" / "position" / "shard-0"
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (line,) = Checkpoints(copy).damage(8)
    assert "points outside" in line


AWAY = [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN]


@pytest.mark.parametrize("number", AWAY)
def test_what_cannot_be_read_for_now_is_not_damaged(copy, number, monkeypatch):
    real = checksums.digest

    def digest(file):
        if "/8/" in str(file) and file.name == "_METADATA":
            raise OSError(number, os.strerror(number), str(file))
        return real(file)

    monkeypatch.setattr(checksums, "digest", digest)
    with pytest.raises(Failure, match=rf"/8/.*_METADATA: the checkpoint cannot be read \({os.strerror(number)}\)"):
        Checkpoints(copy).newest_good(lambda line: pytest.fail(line))


@pytest.mark.parametrize("number", AWAY)
def test_a_directory_that_is_away_is_not_an_empty_one(copy, number, monkeypatch):
    real = os.stat

    def stat(path, *arguments, **options):
        if str(path) == str(copy):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(OSError, match=os.strerror(number)):
        Checkpoints(copy).latest()


def test_a_cause_that_a_library_wraps_is_told(copy, monkeypatch):
    def load(*arguments, **options):
        try:
            raise ValueError('PERMISSION_DENIED: Error reading "x" [OS error 13: EACCES Permission denied]')
        except ValueError as error:
            raise RuntimeError("gathering failed") from error

    monkeypatch.setattr(store.ocp, "load", load)
    with pytest.raises(Failure, match=r"params: the checkpoint cannot be read \(Permission denied\)"):
        Checkpoints(copy).restore_params(8)


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's rights are taken away, which root alone can do")
def test_permissions_are_told_whoever_reads(copy):
    (copy / "8" / "params" / "manifest.ocdbt").chmod(0)
    code = f"from t2t.checkpoint import Checkpoints; Checkpoints({str(copy)!r}).restore_params(8)"
    rights = "-dac_override,-dac_read_search"
    words = ["setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert "Failure: " in done.stderr.splitlines()[-1]
    assert "cannot be read (Permission denied)" in done.stderr.splitlines()[-1]


def test_out_of_memory_is_not_damage(copy, monkeypatch):
    def load(*arguments, **options):
        raise MemoryError("no room")

    monkeypatch.setattr(store.ocp, "load", load)
    with pytest.raises(MemoryError):
        Checkpoints(copy).restore_params(8)


def flip(content):
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 0x10]) + content[len(content) // 2 + 1 :]


def halve(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize("harm", [flip, halve])
def test_damage_under_checksums_that_fit_is_one_line_and_no_noise(copy, harm, capfd, caplog):
    for path in sorted((copy / "8").rglob("*")):
        if not path.is_file() or path.name.startswith("checksums-") or not path.stat().st_size:
            continue
        whole = path.read_bytes()
        path.write_bytes(harm(whole))
        reseal(copy / "8")
        checkpoints = Checkpoints(copy)
        assert checkpoints.damage(8) == []
        for read in (
            lambda: checkpoints.restore(8, abstract(make(0))),  # noqa: B023
            lambda: checkpoints.metrics(8),  # noqa: B023
        ):
            line = told(read)
            assert not line or line.startswith(f"{copy}/8")
        path.write_bytes(whole)
    gc.collect()
    time.sleep(0.3)  # TensorStore's threads would print now
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""


def test_a_step_whose_metrics_are_damaged_is_kept_and_told(copy, caplog):
    (copy / "7" / "about" / "metrics.json").write_text("[1")
    with Checkpoints(copy, CheckpointConfig(keep_last=1, keep_best=0)) as checkpoints:
        checkpoints.save(9, make(9))
    assert sorted(os.listdir(copy)) == ["7", "9"]
    assert "7/about/metrics.json: the checkpoint is damaged" in caplog.text


@pytest.mark.parametrize("content", ["[]", '{"a": "x"}', '{"a": [1]}', '{"a": true}', '{"a": 1' + "0" * 400 + "}"])
def test_metrics_that_are_no_numbers(copy, content):
    (copy / "7" / "about" / "metrics.json").write_text(content)
    with pytest.raises(UserError, match=r"metrics.json: the checkpoint is damaged"):
        Checkpoints(copy).metrics(7)
