"""Real programs with standard streams that are closed, full, or of an encoding without the text's characters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from t2t.launch.main import run
from t2t.launch.streams import _Messages

ROOT = Path(__file__).parents[2]


def shell(code: str, redirection: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program whose code begins with its streams made ready, under a shell's redirection."""
    whole = f"import os, sys\nfrom t2t.launch.streams import finish, prepare\nprepare()\n{code}"
    return subprocess.run(
        ["bash", "-c", f'"$0" -c "$1" {redirection}', sys.executable, whole],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


def test_the_number_of_a_closed_stream_goes_to_no_other_file():
    done = shell("file = open(os.devnull)\nprint(file.fileno() > 2, file=sys.stderr)", ">&- <&-")
    assert (done.returncode, done.stderr) == (0, "True\n")


def test_messages_to_a_closed_or_full_standard_error_are_dropped():
    for redirection in ("2>&-", "2>/dev/full"):
        done = shell("print('a message', file=sys.stderr)\nprint('a result')\nsys.exit(finish(0))", redirection)
        assert (done.returncode, done.stdout) == (0, "a result\n")


def test_messages_nobody_reads_are_dropped():
    reader, writer = os.pipe()
    os.close(reader)
    with _Messages(writer, "w") as messages:
        assert messages.write(b"abc") == 3


def test_results_that_cannot_be_written_are_an_error_in_one_line():
    done = shell("print('a result')\nsys.exit(finish(0))", ">/dev/full")
    assert (done.returncode, done.stderr) == (1, "error: standard output: No space left on device\n")
    done = shell("from t2t.launch.main import run\nsys.exit(finish(run(['--version'])))", ">&-")
    assert (done.returncode, done.stderr) == (1, "error: standard output is closed: the results cannot be written\n")


def test_characters_that_an_encoding_has_not_are_replaced():
    done = shell("print('é→a')\nprint('é', file=sys.stderr)\nsys.exit(finish(0))", "", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, "??a\n", "\\xe9\n")


def test_a_closed_standard_input_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert run(["infer", "nowhere", "--input", "-"]) == 2
    assert capsys.readouterr().err == "error: standard input (--input -) is closed. Nearest: --input FILE.\n"


@pytest.mark.parametrize("debug", [False, True])
def test_libraries_logs_are_for_debugging(debug):
    code = (
        "import logging\nfrom t2t.launch import logs\n"
        f"logs.configure(debug={debug})\n"
        "logging.getLogger('absl').error('a thread of ours')\nlogging.getLogger('mine').warning('mine')\n"
        "logging.getLogger('t2t.data.sources').warning('a task is left out')\n"
    )
    done = shell(code, "")
    of_library = ["ERROR absl: a thread of ours"] if debug else []
    assert done.stderr.splitlines() == [*of_library, "WARNING mine: mine", "a task is left out"]
