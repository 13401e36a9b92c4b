import pytest

from t2t import tasks
from t2t.errors import UserError
from t2t.launch.imports import load

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
