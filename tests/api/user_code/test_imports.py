import pytest

from t2t import tasks
from t2t.api.recipes import find
from t2t.api.user_code.imports import function_of, load
from t2t.errors import UserError
from t2t.launch.main import run

PROGRAM = """
from t2t import tasks
from t2t.tasks.generated import GeneratedSource, copy_words

tasks.add("{name}", source=GeneratedSource("loaded", copy_words, sizes={{"train": 10}}), targets="targets")
"""


def test_a_file_registers_its_tasks_once(tmp_path):
    (tmp_path / "my_tasks.py").write_text(PROGRAM.format(name="tl_file"))
    module = load(str(tmp_path / "my_tasks.py"))
    assert tasks.find("tl_file").num_input_examples("train") == 10
    assert load(str(tmp_path / "my_tasks.py")) is module


def test_a_module_of_the_current_directory(tmp_path, monkeypatch):
    (tmp_path / "tl_module.py").write_text(PROGRAM.format(name="tl_module"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["/nowhere", *__import__("sys").path])
    load("tl_module")
    assert "tl_module" in tasks.names()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def broken(:\n", r"bad\.py:1: invalid syntax"),
        ("\n\nimport no_such_module_here\n", r"bad\.py:3: ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("x = 1 / 0\n", r"bad\.py:1: ZeroDivisionError: division by zero"),
        ("from t2t import tasks\ntasks.find('revers_words')\n", "unknown task or mixture 'revers_words'"),
    ],
)
def test_a_failing_file_names_its_line(content, message, tmp_path):
    (tmp_path / "bad.py").write_text(content)
    for _ in range(2):  # a failure is not remembered as loaded
        with pytest.raises(UserError, match=message) as caught:
            load(str(tmp_path / "bad.py"))
        assert "\n" not in str(caught.value)


def test_missing_files_and_modules(tmp_path, monkeypatch):
    (tmp_path / "my_tasks.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--import 'my_task\.py': no such file\. Nearest: my_tasks\.py"):
        load("my_task.py")
    with pytest.raises(UserError, match=r"--import 'my_taks': no such module.* Nearest: my_tasks"):
        load("my_taks")
    with pytest.raises(UserError, match=r"--import 'json\.nothing': no such module"):
        load("json.nothing")


@pytest.mark.parametrize("code", ["", "0", "3", "'done'"])
def test_a_file_that_ends_the_program_is_told(code, tmp_path, capsys):
    path = tmp_path / "ends.py"
    path.write_text(f"import sys\n\nsys.exit({code})\n")
    for words in (["tasks"], ["train", "t5:quickstart", "--dir", str(tmp_path / "run")]):
        assert run([*words, "--import", str(path)]) == 2
        told = capsys.readouterr().err
        assert (
            told
            == f"error: --import {str(path)!r}: {path}:3: sys.exit({code}) ends the program before the command starts\n"
        )
    assert not (tmp_path / "run").exists()


OWN = """
import sys
from dataclasses import replace

from t2t.api.recipes import quickstart_t5
from t2t.train.guard import Guard


def fine(steps=3):
    return replace(quickstart_t5(), steps=steps)

def boom():
    raise RuntimeError("boom")

def deep():
    return int("x")

def wants(first, second=1, *, third):
    return fine()

def ends():
    sys.exit(0)

def bad():
    return Guard(window=0)

def other():
    return 3
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("boom", "recipe {path}:boom: {path}:13: RuntimeError: boom"),
        ("deep", "recipe {path}:deep: {path}:16: ValueError: invalid literal for int() with base 10: 'x'"),
        ("wants", "recipe {path}:wants: wants() needs the arguments first, third, but is called without arguments."),
        ("ends", "recipe {path}:ends: {path}:22: sys.exit(0) ends the program"),
        ("bad", "window 0 (Guard.window) is not a whole number from 1"),
        ("other", "recipe {path}:other: other() returned int, not an Experiment"),
        ("fin", "has no function 'fin'. Nearest: fine"),
    ],
)
@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_recipe_of_ones_own_is_told_like_an_import(command, name, told, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # which plan sets for its own process
    path = tmp_path / "own.py"
    path.write_text(OWN)
    more = ["--dir", str(tmp_path / "run")] if command == "train" else ["--topology", "v5e:2x2"]
    assert run([command, f"{path}:{name}", *more]) == 2
    error = capsys.readouterr().err
    assert told.format(path=path) in error
    assert len(error.splitlines()) == 1
    assert find(f"{path}:fine")().steps == 3


def test_a_grid_of_ones_own_is_told_like_an_import(tmp_path, capsys):
    (tmp_path / "own_grid.py").write_text(OWN)
    assert run(["grid", f"{tmp_path / 'own_grid.py'}:boom", "--dir", str(tmp_path / "grid")]) == 2
    assert "own_grid.py:13: RuntimeError: boom" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"grid .*:wants: wants\(\) needs the arguments first, third"):
        function_of(f"{tmp_path / 'own_grid.py'}:wants", option="grid")


def test_what_ends_the_program_within_a_command_is_a_mistake_of_its_own(tmp_path, monkeypatch, capsys):
    def profile(run: str) -> None:
        raise SystemExit(0)

    monkeypatch.setattr("t2t.launch.show_recipes.recipes", lambda: profile("x"))
    assert run(["recipes"]) == 2
    assert "sys.exit(0) ends the program before the command is done" in capsys.readouterr().err
