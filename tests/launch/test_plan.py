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
        ("", "t2t plan: RECIPE is missing"),
        ("bert:larg --topology v5e-16", "unknown recipe 'bert:larg'. Nearest: bert:large"),
        ("t5:quickstart", "--topology NAME is missing: it names the hardware: v5e:16x16"),
        ("t5:quickstart --topology v5e-17", "there is no v5e-17. Nearest: v5e-16"),
        ("t5:quickstart --topology v5e-16 --mesh.fspd 2", "unknown option --mesh.fspd. Nearest: --mesh.fsdp"),
        (
            "t5:quickstart --topology v5e-16 --compile -1",
            "compile -1 (--compile) is not a whole number from 0 to 1000. Nearest: 0",
        ),
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


@pytest.fixture
def no_compilers(monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


@pytest.mark.parametrize("topology", ["v5e:4x4", "v5e-256", "v5p-1024", "v6e:2x4*2", "h100:2x8"])
def test_an_estimate_needs_no_compiler(topology, no_compilers, capsys):
    assert missing("v5e")
    assert missing("h100")
    words = f"plan t5:quickstart --topology {topology} --batch-size 512 --compile 0"
    assert run(words.split()) == 0
    out = capsys.readouterr().out
    assert "an estimate, not compiled" in out
    assert "total" in out


@pytest.mark.slow
def test_a_search_by_estimate_needs_no_compiler(no_compilers, tmp_path, capsys):
    words = f"plan gpt:quickstart --topology v5e:2x2 --search --compile 0 --json {tmp_path / 'plan.json'}"
    assert run(words.split()) == 0
    found = json.loads((tmp_path / "plan.json").read_text())["search"]
    assert len(found) > 8
    assert not any(plan["compiled"] for plan in found)


@pytest.mark.parametrize(
    ("topology", "nearest"),
    [("v5e:3x5", "v5e:4x4"), ("v6e:1x2", "v6e:1x1"), ("v5p:4x6x4", "v5p:4x4x4"), ("v5p:32x32x32", "v5p:16x16x24")],
)
def test_slices_that_do_not_exist_are_refused_without_a_compiler(topology, nearest, no_compilers, capsys):
    assert run(["plan", "t5:quickstart", "--topology", topology, "--compile", "0"]) == 2
    error = capsys.readouterr().err
    assert f"there is no slice of that shape. Nearest: {nearest}." in error
    assert error.count("\n") == 1


def test_an_estimate_as_tables_and_as_json(tmp_path, capsys):
    words = "plan gpt:quickstart --topology h100:1x4 --compile 0 --mesh.data 2 --mesh.fsdp 2 --model.remat full"
    assert run([*words.split(), "--json", str(tmp_path / "plan.json")]) == 0
    out = capsys.readouterr().out
    assert "gpt:quickstart on h100:1x4: 4 x H100 SXM 80GB" in out
    assert "mesh data 2 x fsdp 2; dtype float32, remat full, attention einsum, batch 24, microbatches 1" in out
    found = json.loads((tmp_path / "plan.json").read_text())["plan"]
    assert found["fits"]
    assert not found["compiled"]
    assert found["memory"]["optimizer"] > 2 * found["memory"]["parameters"] > 0  # two moments and a count
    assert found["trainable_parameters"] == found["parameters"]


def test_gradients_and_optimizer_state_are_those_of_trainable_parameters(tmp_path, capsys):
    words = [
        "plan",
        "t5:quickstart",
        "--topology",
        "h100:1x1",
        "--compile",
        "0",
        "--optimizer.schedule.peak",
        "0.01",
        "--json",
    ]
    assert run([*words, str(tmp_path / "whole.json")]) == 0
    assert "trainable" not in capsys.readouterr().out
    frozen = ["--trainable.include", "decoder/**", "--trainable.frozen-dtype", "bfloat16"]
    assert run([*words, str(tmp_path / "frozen.json"), *frozen]) == 0
    assert "parameters are trainable; the others are frozen" in capsys.readouterr().out
    whole, part = (json.loads((tmp_path / name).read_text())["plan"] for name in ("whole.json", "frozen.json"))
    assert part["parameters"] == whole["parameters"] > part["trainable_parameters"] > 0
    assert part["memory"]["gradients"] == 4 * part["trainable_parameters"]
    kept = whole["parameters"] - part["trainable_parameters"]
    assert part["memory"]["parameters"] == 4 * part["trainable_parameters"] + 2 * kept
    assert part["memory"]["optimizer"] < whole["memory"]["optimizer"]
    assert part["memory"]["activations"] < whole["memory"]["activations"], "nothing is kept for a frozen encoder"
    assert whole["hardware_flops"]["float32"] > part["hardware_flops"]["float32"]
