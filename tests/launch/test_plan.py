"""`t2t plan` as a user calls it."""

import json

import pytest

from t2t.launch.main import run
from t2t.plan.topology import ENVIRONMENT, missing


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """The command sets the environment for its own process; here that is everybody's."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "t2t plan: which recipe?"),
        ("bert:larg --topology v5e-16", "unknown recipe 'bert:larg'. Nearest: bert:large"),
        ("t5:quickstart", "on what? --topology names it: v5e:16x16"),
        ("t5:quickstart --topology v5e-17", "there is no v5e-17. Nearest: v5e-16"),
        ("t5:quickstart --topology v5e-16 --mesh.fspd 2", "unknown option --mesh.fspd. Nearest: --mesh.fsdp"),
        ("t5:quickstart --topology v5e-16 --compile -1", "--compile -1 is negative. Nearest: 0"),
    ],
)
def test_mistakes_are_told_in_a_line(words, message, capsys):
    assert run(["plan", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_missing_compiler_is_told_in_a_line(monkeypatch, capsys):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(["plan", "t5:quickstart", "--topology", "v5e-16"]) == 2
    assert "the TPU compiler is not installed: pip install 'jax[tpu]==" in capsys.readouterr().err


def test_an_estimate_as_tables_and_as_json(tmp_path, capsys):
    if why := missing("h100"):
        pytest.skip(why)
    words = "plan gpt:quickstart --topology h100:1x4 --compile 0 --mesh.data 2 --mesh.fsdp 2 --model.remat full"
    assert run([*words.split(), "--json", str(tmp_path / "plan.json")]) == 0
    out = capsys.readouterr().out
    assert "gpt:quickstart on h100:1x4: 4 x H100 SXM 80GB" in out
    assert "mesh data 2 x fsdp 2; dtype float32, remat full, attention einsum, batch 24, microbatches 1" in out
    found = json.loads((tmp_path / "plan.json").read_text())["plan"]
    assert found["fits"]
    assert not found["compiled"]
    assert found["memory"]["optimizer"] > 2 * found["memory"]["parameters"] > 0  # two moments and a count
