"""Every snippet of README.md and docs/ is run, file by file, as a reader would.

Python is executed, unless its fence names a file (```python my_tasks.py): that file is written. `$ t2t ...` is called, `$ python FILE.py` executed.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from t2t import config_classes
from t2t.api.user_code import imports
from t2t.launch.main import run

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```(python|yaml|console)(?: (\S+))?\n(.*?)^```$", re.M | re.S)
# Trainings are cut short; all else is run as it stands.
SHORT = [
    "--steps",
    "2",
    "--eval-every",
    "0",
    "--checkpoint-every",
    "2",
    "--log-every",
    "1",
    "--evaluation.examples",
    "2",
    "--evaluation.length",
    "8",
    "--batch-size",
    "8",
]
EVALUATED = ["--evaluation.tasks", "reverse_words"]
FILES = sorted(path for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if FENCE.search(path.read_text()))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A directory with a quickstart run in it, which most pages ask for."""
    place = tmp_path_factory.mktemp("docs")
    assert run(["train", "t5:quickstart", "--dir", str(place / "runs/quickstart"), *SHORT, *EVALUATED]) == 0
    return place


@pytest.fixture(autouse=True)
def _own_files():
    """Forget the files that a page imported: those of the same name in other tests would get a number."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(f"{config_classes.OWN}."):
            del sys.modules[name]


def test_there_are_snippets():
    assert len(FILES) >= 8


@pytest.mark.slow  # many trainings
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_snippets_run(path, workplace, tmp_path, monkeypatch, capsys):
    shutil.copytree(workplace, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(imports, "_used", {})  # other tests' processes import what was used, wherever they are
    names: dict = {"__name__": "__main__"}
    for language, file, body in FENCE.findall(path.read_text(encoding="utf-8")):
        if file:
            Path(file).write_text(body, encoding="utf-8")
            continue
        if language == "yaml":
            continue
        if language == "python":
            exec(compile(body, f"{path.name} snippet", "exec"), names)
            continue
        for line in body.splitlines():
            if script := re.fullmatch(r"\$ python (\S+\.py)", line):
                runpy.run_path(script[1])
            if line.startswith("$ t2t "):
                words = shlex.split(line.removeprefix("$ t2t "), comments=True)
                if words[0] == "train":
                    words += SHORT  # the last of two wins
                    words += [] if "--evaluation.tasks" in words else EVALUATED
                assert run(words) == 0, f"{line}\n{capsys.readouterr().err}"
