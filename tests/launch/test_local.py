"""The launcher of processes on this machine, with real processes that load no JAX."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2t.launch.main import run as t2t

ROOT = Path(__file__).parents[2]
LAUNCH = "import sys; from t2t.launch.launchers.local import Local, run; sys.exit(run([sys.executable, '-c', *sys.argv[3:]], Local(processes=int(sys.argv[1]), restarts=int(sys.argv[2]))))"
START = "import os, signal, sys, time, pathlib; from t2t.distributed.end import end_with_launcher; end_with_launcher(); me = int(os.environ['T2T_PROCESS']); here = pathlib.Path(sys.argv[1])\n"
WAIT = (
    START
    + """
import subprocess
child = subprocess.Popen(["sleep", "300"]) if me == 0 else None
got = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: got.append(number))
(here / f"pid{me}").write_text(f"{os.getpid()} {child.pid if child else os.getpid()}")
(here / f"ready{me}").touch()
while not got:
    time.sleep(0.01)
print(f"got {signal.Signals(got[0]).name}", flush=True)
if me == 1 and len(sys.argv) > 2:
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(75)
"""
)


def launch(code: str, *words: str, processes: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LAUNCH, str(processes), str(restarts), code, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(launcher: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = launcher.communicate(timeout=60)
    return launcher.returncode, out, err


def wait_for(*paths: Path) -> None:
    limit = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < limit, paths
        time.sleep(0.02)


def pids(directory: Path, processes: int) -> list[int]:
    return [int(pid) for i in range(processes) for pid in (directory / f"pid{i}").read_text().split()]


def gone(pid: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


def test_each_line_has_its_process_and_keeps_its_stream():
    code = (
        START
        + "print('one\\ntwo'); print(f'{me} of', os.environ['T2T_PROCESSES'], file=sys.stderr); sys.stdout.write('no end')"
    )
    done, out, err = finish(launch(code, ".", processes=3))
    assert done == 0
    assert sorted(out.splitlines()) == [f"[{i}] {line}" for i in range(3) for line in ("no end", "one", "two")]
    assert sorted(err.splitlines()) == [f"[{i}] {i} of 3" for i in range(3)]


@pytest.mark.parametrize(
    ("code", "said"),
    [(1, "ended with code 1"), (2, None), (-9, "was killed by SIGKILL"), (-11, "was killed by SIGSEGV")],
)
def test_one_that_fails_ends_all_at_once(code, said, tmp_path):
    how = f"os.kill(os.getpid(), {-code})" if code < 0 else f"sys.exit({code})"
    began = time.monotonic()
    done, _, err = finish(launch(START + f"{how} if me == 1 else time.sleep(300)", "."))
    assert done == (code if code > 0 else 1)
    assert ("launch:" in err) == (said is not None)
    if said:
        assert re.search(rf"launch: process 1 of 2 \(pid \d+\) {said}.*; ending the others", err)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("code", [2, 75])
def test_neither_a_mistake_nor_a_stop_is_tried_again(code, tmp_path):
    done, out, _ = finish(launch(START + f"print('started'); sys.exit({code})", ".", restarts=3))
    assert done == code
    assert out.count("started") == 2


def test_restarts_until_it_works_and_no_oftener_than_asked(tmp_path):
    code = (
        START
        + "tries = here / f'tries{me}'; tries.open('a').write('.'); sys.exit(1 if len(tries.read_text()) < 3 and me == 0 else 0)"
    )
    done, _, err = finish(launch(code, str(tmp_path), restarts=1))
    assert done == 1
    assert err.count("restarting from") == 1
    (tmp_path / "tries0").unlink()
    assert finish(launch(code, str(tmp_path), restarts=5))[0] == 0
    assert (tmp_path / "tries0").read_text() == "..."


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_are_passed_on_once_and_all_stop(number, tmp_path):
    launcher = launch(WAIT, str(tmp_path), restarts=3)
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    launcher.send_signal(number)
    done, out, err = finish(launcher)
    assert done == 75
    assert sorted(out.splitlines()) == [f"[0] got {number.name}", f"[1] got {number.name}"]
    assert "restarting from" not in err
    assert all(gone(pid) for pid in pids(tmp_path, 2))  # the sleep that process 0 had started too


def test_one_that_dies_when_asked_to_stop_does_not_hold_the_others(tmp_path):
    launcher = launch(WAIT, str(tmp_path), "die", restarts=3)
    wait_for(tmp_path / "ready0", tmp_path / "ready1")
    launcher.send_signal(signal.SIGTERM)
    done, _, err = finish(launcher)
    assert done == 75
    assert "process 1 was killed by SIGKILL" in err
    assert "before it saved; the last checkpoint is kept" in err


def test_no_process_outlives_a_launcher_killed_with_sigkill(tmp_path):
    launcher = launch(WAIT, str(tmp_path), processes=3)
    wait_for(*(tmp_path / f"ready{i}" for i in range(3)))
    launcher.kill()
    launcher.communicate(timeout=60)
    limit = time.monotonic() + 10
    own = [int((tmp_path / f"pid{i}").read_text().split()[0]) for i in range(3)]
    while not all(gone(pid) for pid in own):
        assert time.monotonic() < limit
        time.sleep(0.02)
    os.kill(int((tmp_path / "pid0").read_text().split()[1]), signal.SIGKILL)  # a process's own child is its own affair


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("launch", "t2t launch: the launcher is missing"),
        ("launch locl -- train", "unknown launcher 'locl'. Nearest: local"),
        ("launch local -n 2", "the command after -- is missing"),
        ("launch local -n 2 -- infer", "'infer' (after --) is not a command for several processes"),
        ("launch local -n 0 -- train", "processes 0 (--processes) is not a whole number from 1 to 1024. Nearest: 1"),
        ("launch local --restart 1 -- train", "unknown option --restart. Nearest: --restarts"),
        ("launch local --devices-per-process 2 --gpus-per-process 1 -- train", "give one of them"),
        ("launch local -n 1 --gpus-per-process 1 -- train", "--processes is 1. Nearest: CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(words, message, capsys):
    assert t2t(words.split()) == 2
    written = capsys.readouterr().err
    assert message in written
    assert len(written.splitlines()) == 1


def test_what_stands_behind_the_dashes_is_the_commands_own():
    """--debug behind them is the training's: the launcher's own mistake would be one line still."""
    command = [sys.executable, "-m", "t2t.launch", "launch", "local", "-n", "1", "--", "train", "--debug"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 1
    assert "[0] Traceback" in done.stderr
    assert "RECIPE is missing" in done.stderr
