"""What `import t2t` offers."""

import subprocess
import sys
from pathlib import Path

import pytest

import t2t

ROOT = Path(__file__).parents[1]


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_neither_jax_nor_tensorflow():
    loaded = python("import sys, t2t; t2t.UserError; print({'jax', 'numpy', 'tensorflow', 'seqio'} & set(sys.modules))")
    assert loaded == "set()\n"


def test_runs_are_loaded_without_tensorflow():
    loaded = python(
        "import sys, t2t; t2t.load; t2t.models; t2t.Experiment; print({'tensorflow', 'seqio'} & set(sys.modules))"
    )
    assert loaded == "set()\n"


def test_every_name_is_there():
    from t2t.tasks import metrics, sources

    assert {name for name in t2t.__all__ if getattr(t2t, name) is None} == set()
    assert (t2t.metrics, t2t.sources) == (metrics, sources)
    assert set(t2t.__all__) <= set(dir(t2t))


def test_train_is_a_function_and_a_package():
    from t2t.train.experiment import Experiment

    assert callable(t2t.train)
    assert Experiment is t2t.Experiment


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        t2t.trian  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="trian"):
        from t2t import trian  # noqa: F401


@pytest.mark.slow
def test_types_of_the_names_are_known_to_mypy(tmp_path):
    (tmp_path / "script.py").write_text(
        "import t2t\n"
        "run: t2t.Run = t2t.train('t5:quickstart', dir='r', steps=2)\n"
        "wrong: int = t2t.load('r')\n"
        "t2t.train(steps=2)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--follow-imports=silent", str(tmp_path / "script.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = [line.partition(": error: ")[2] for line in done.stdout.splitlines() if ": error: " in line]
    assert lines[0].startswith('Incompatible types in assignment (expression has type "Run"')
    assert lines[1].startswith("Too few arguments") or "Missing positional argument" in lines[1]
    assert len(lines) == 2
