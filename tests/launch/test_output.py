"""What a terminal is shown of data and names that hold commands to it."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from t2t.api.escapes import visible
from t2t.api.progress import Progress
from t2t.launch import output
from t2t.launch.logs import _Plain
from t2t.launch.main import run

EVIL = "a\x1b]0;title\x9b31m\u202eb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä → 字 \t\n", "plain ä → 字 \t\n"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\x9b\x7f\r\x00", "\\x9b\\x7f\\r\\x00"),
        ("\u202e\u2066\u200f\u061c", "\\u202e\\u2066\\u200f\\u061c"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_become_visible(text, shown):
    assert visible(text) == shown


def test_a_terminals_tables_have_no_commands_of_the_data(monkeypatch):
    out = io.StringIO()
    made = output.Output
    monkeypatch.setattr(
        output, "Output", lambda **options: made(**{**options, "file": out, "force_terminal": True, "width": 100})
    )
    shown = output.console()
    rows = output.table(shown, "name")
    rows.add_row(EVIL)
    shown.print(rows)
    shown.print(EVIL, style="red")
    assert all(letter not in out.getvalue() for letter in ("\x9b", "\u202e", "\x1b]"))
    assert out.getvalue().count(visible(EVIL)) == 2
    assert "\x1b[31m" in out.getvalue()  # its own colours stay


def test_progress_and_log_show_them():
    out = io.StringIO()
    Progress(console=Console(file=out, force_terminal=True, width=100)).on_message(EVIL)
    assert out.getvalue() == f"{visible(EVIL)}\n"
    record = logging.LogRecord("t2t", logging.WARNING, "", 0, "file %s", (EVIL,), None)
    assert _Plain().format(record) == f"file {visible(EVIL)}"


def test_errors_show_them(capsys):
    assert run([f"x{EVIL}"]) == 2
    assert run(["eval", f"{EVIL}"]) == 2
    assert not set(capsys.readouterr().err) & set("\x1b\x07\x9b\u202e")


@pytest.mark.parametrize("words", [["models"], ["recipes"], ["tasks"]])
def test_a_reader_that_closes_the_pipe_ends_the_command_quietly(words):
    """As in `t2t models | head -1`: rich would end the process with an error."""
    program = "import os, sys; from t2t.launch.main import main; sys.stdin.readline(); sys.exit(main())"
    command = [sys.executable, "-c", program, *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (0, "")
