"""One training at a time in a run directory: real processes, killed ones, and holders on other machines."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from t2t.errors import UserError
from t2t.train import claim
from t2t.train.claim import Claim

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from t2t.train import claim
claim.BEAT = 0.1
one = claim.Claim(Path(sys.argv[1]))
one.take()
print("taken", flush=True)
sys.stdin.readline()
one.release()
print("released", flush=True)
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(claim, "BEAT", 0.05)
    monkeypatch.setattr(claim, "SETTLE", 0.05)


def hold(directory: Path, **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "taken\n", process.communicate()
    return process


def taken(directory: Path) -> bool:
    one = Claim(directory)
    try:
        one.take()
    except UserError:
        return False
    one.release()
    return True


def edit(directory: Path, **changes: object) -> None:
    """Let the lock file, as it stands, be of another holder."""
    path = directory / "lock"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def leave_behind(directory: Path) -> None:
    """Leave the lock file of a holder that is no more, of this process's id."""
    one = Claim(directory)
    one.take()
    content = (directory / "lock").read_text()
    one.release()
    (directory / "lock").write_text(content)
    edit(directory, inode=(directory / "lock").stat().st_ino)


def test_the_second_is_refused_and_the_holder_named(tmp_path):
    holder = hold(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert taken(tmp_path / "copy")  # a copied directory is another one
    with pytest.raises(UserError) as caught:
        Claim(tmp_path / "run").take()
    assert f"{tmp_path / 'run'} (--dir) is in use by process {holder.pid} on " in str(caught.value)
    assert "\n" not in str(caught.value)
    out, _ = holder.communicate("\n", timeout=60)
    assert out == "released\n"
    assert list((tmp_path / "run").iterdir()) == []
    assert taken(tmp_path / "run")


@pytest.mark.parametrize("waited_for", [True, False])
def test_after_kill_9_the_next_begins_at_once(waited_for, tmp_path, monkeypatch):
    """Also where nobody has waited for the killed process, and `flock` does not exist to tell."""
    if not waited_for:
        monkeypatch.setattr(claim, "_flock", lambda file: None)
    holder = hold(tmp_path)
    assert not taken(tmp_path)
    holder.send_signal(signal.SIGKILL)
    if waited_for:
        holder.wait()
    else:
        while "\nState:\tZ" not in Path(f"/proc/{holder.pid}/status").read_text():
            time.sleep(0.01)
    assert (tmp_path / "lock").exists()
    began = time.monotonic()
    assert taken(tmp_path)
    assert time.monotonic() - began < 5
    holder.wait()


def test_a_process_in_two_minds_is_refused_too(tmp_path):
    one = Claim(tmp_path)
    one.take()
    assert not taken(tmp_path)
    one.release()
    assert taken(tmp_path)


@pytest.mark.parametrize("locks", [True, False])
def test_a_process_id_that_another_process_has_now(locks, tmp_path, monkeypatch):
    if not locks:
        monkeypatch.setattr(claim, "_flock", lambda file: None)
    leave_behind(tmp_path)
    assert not taken(tmp_path)  # it says that we hold it
    edit(tmp_path, began=1)
    assert taken(tmp_path)


@pytest.mark.parametrize("locked", [True, False, None])
def test_another_machines_holder_that_gives_signs_of_life(locked, tmp_path, monkeypatch):
    """Whatever `flock` says: not every network file system passes it on."""
    leave_behind(tmp_path)
    edit(tmp_path, boot="other", host="node7", pid=1)
    monkeypatch.setattr(claim, "_flock", lambda file: locked)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            os.utime(tmp_path / "lock")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 1 on node7"):
            Claim(tmp_path).take()
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("locked", [True, False, None])
def test_another_machines_holder_that_gives_none(locked, tmp_path, monkeypatch, capsys):
    leave_behind(tmp_path)
    edit(tmp_path, boot="other", host="node7", pid=1)
    monkeypatch.setattr(claim, "_flock", lambda file: locked)
    monkeypatch.setattr(claim, "STALE", 0.4)
    began = time.monotonic()
    assert taken(tmp_path)
    assert 0.2 < time.monotonic() - began < 10
    assert "waiting up to 0 s for a heartbeat of process 1 on node7" in capsys.readouterr().err


def test_one_long_dead_on_another_machine_is_not_waited_for(tmp_path, capsys):
    leave_behind(tmp_path)
    edit(tmp_path, boot="other")
    os.utime(tmp_path / "lock", (time.time() - 3600,) * 2)
    assert taken(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_job_that_slurm_has_put_back_goes_on_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    leave_behind(tmp_path)
    edit(tmp_path, boot="other")
    monkeypatch.setattr(claim, "_flock", lambda file: False)  # a server that has not noticed yet
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert taken(tmp_path)


def test_without_flock_the_last_of_two_has_it(tmp_path, monkeypatch):
    def refused(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    monkeypatch.setattr(claim, "SETTLE", 0.5)
    assert claim._flock(0) is None
    other = claim._me(0)
    timer = threading.Timer(0.2, lambda: edit(tmp_path, nonce="other", pid=other.pid + 1))
    timer.start()
    with pytest.raises(UserError, match=f"process {other.pid + 1}"):
        Claim(tmp_path).take()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("gone", "lock was deleted"),
        ("taken", "lock is now held by process 1 on node7"),
        ("broken", "could not be updated"),
    ],
)
def test_a_lock_that_is_lost_is_told(how, said, tmp_path, monkeypatch):
    reasons: list[str] = []
    told = threading.Event()

    def lost(reason: str) -> None:
        reasons.append(reason)
        told.set()

    monkeypatch.setattr(claim, "STALE", 0.3)
    one = Claim(tmp_path, lost)
    one.take()
    if how == "gone":
        (tmp_path / "lock").unlink()
    elif how == "taken":
        edit(tmp_path, nonce="other", host="node7", pid=1)
    else:

        def broken(file: int) -> None:
            raise OSError(errno.ESTALE, "Stale file handle")

        monkeypatch.setattr(claim.os, "utime", broken)
    assert told.wait(30)
    one.release()
    assert said in reasons[0]
    if how == "taken":
        assert "node7" in (tmp_path / "lock").read_text()  # the new holder's is left alone


def test_a_process_that_has_lost_its_lock_ends(tmp_path):
    holder = hold(tmp_path)
    edit(tmp_path, nonce="other", host="node7", pid=1)
    assert holder.wait(timeout=60) == 1
    assert holder.stderr is not None
    assert holder.stderr.read().splitlines() == [
        f"error: {tmp_path}/lock is now held by process 1 on node7 since {json.loads((tmp_path / 'lock').read_text())['since']}:"
        " another training may write here, so this one ends"
    ]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', "\xff"])
def test_a_damaged_lock_file_is_no_holder(content, tmp_path):
    (tmp_path / "lock").write_text(content, encoding="latin-1")
    assert taken(tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file \(--dir\) is a file, not a directory"):
        Claim(tmp_path / "file").take()
    with pytest.raises(UserError, match=r"run \(--dir\): .*file is a file, not a directory"):
        Claim(tmp_path / "file/run").take()
