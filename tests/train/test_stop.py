"""Signals to real programs at moments of their life: nothing to save yet, something to save, a second signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from t2t.distributed.end import several
from t2t.train.stop import EndOnSignal, StopOnSignal

ROOT = Path(__file__).parents[2]
HEAD = (
    "import hashlib, os, signal, sys, time\nfrom t2t.train.stop import EndOnSignal, StopOnSignal\n"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests themselves may run under nohup
)
BUSY = "print('ready', flush=True)\nhashlib.pbkdf2_hmac('sha256', b'a', b'b', 100_000_000)\n"
"""Compiled code that lets other threads run, and in which the main thread runs no Python: as a compilation is."""


def start(code: str, **options) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HEAD + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **options,
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        error = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    return process.returncode, error


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_with_nothing_to_save_a_program_ends_at_once_even_in_compiled_code(number):
    process = start(f"with EndOnSignal(75):\n    {BUSY.replace(chr(10), chr(10) + '    ')}")
    process.send_signal(number)
    assert end(process) == (75, f"stopped by {number.name} with nothing to save; the same command resumes\n")


def test_a_signal_that_comes_while_the_program_is_started_anew_is_not_lost():
    code = (
        "if len(sys.argv) == 1:\n    EndOnSignal.keep()\n    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    print('ready', flush=True)\n    os.execv(sys.executable, [*sys.orig_argv, 'again'])\n"
        "EndOnSignal.keep()\nwith EndOnSignal(75):\n    time.sleep(60)\n"
    )
    assert end(start(code))[0] == 75


def test_without_a_terminal_a_program_goes_on_as_nohup_wants():
    code = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nwith EndOnSignal(75):\n    print('ready', flush=True)\n    os.kill(os.getpid(), signal.SIGHUP)\n    time.sleep(0.3)\n"
    assert end(start(code)) == (0, "")


HOLDING = "with EndOnSignal(75), StopOnSignal() as stop:\n    stop.holding = True\n    print('ready', flush=True)\n    while stop.signal is None:\n        time.sleep(0.01)\n    print('asked', flush=True)\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_with_something_to_save_the_second_signal_ends_it(number, code):
    process = start(HOLDING + "    " + BUSY.replace("\n", "\n    "))
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    assert process.stdout.readline() == "ready\n"
    assert process.poll() is None
    if number == signal.SIGTERM:  # at once it would be the same one, told twice
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.7)
    process.send_signal(number)
    assert end(process) == (code, f"second {number.name}: ended without saving\n")


def test_two_kinds_of_signal_are_one_request():
    """SLURM tells of the time limit by one and ends the job by another, a launcher passes Ctrl-C on."""
    process = start(HOLDING + "    time.sleep(1.5)\n")
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    assert end(process) == (0, "")


def test_a_program_of_somebody_elses_is_not_ended():
    before = signal.getsignal(signal.SIGUSR1)
    with StopOnSignal() as stop:
        assert not stop.now()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.now()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGUSR1) is before
    assert not EndOnSignal.opened


def test_jax_may_be_half_imported_when_a_signal_comes(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", types.ModuleType("jax"))
    assert several() is False
