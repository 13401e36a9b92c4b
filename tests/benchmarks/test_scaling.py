"""The measuring of how cost grows: what is computed of it, and that what was measured stays so."""

import json
import re

import jax
import numpy as np
import pytest

from benchmarks.scaling import attention, collectives, depth, memory, tokens, weak
from benchmarks.scaling.__main__ import main
from benchmarks.scaling.experiments import host_batch
from benchmarks.scaling.measuring import measure
from benchmarks.scaling.part import Point
from benchmarks.scaling.results import Results
from t2t.errors import UserError
from t2t.plan.plan import prepare
from t2t.plan.topology import Topology
from tests.benchmarks import counted

EIGHT = Topology.parse("h100:1x8")
TINY = {"num_layers": 3, "d_model": 64, "num_heads": 4, "d_ff": 160, "vocab_size": 96, "dtype": "float32"}
LENGTHS = {"decoder": {"length": 16}, "encoder_decoder": {"length": 16, "targets_length": 16, "head_dim": 16}}


def tiny(kind, mesh, **model):
    return prepare(
        collectives.sharded_experiment(kind, mesh, 8, **TINY, **LENGTHS[kind], **model), EIGHT, jax.devices()
    )


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["data", "fsdp"])
def test_what_is_sent_is_what_theory_says(mesh):
    # XLA's CPU compiler has no reduce-scatter, and sums a tied table's two gradients one by one.
    program = tiny("decoder", mesh, tied=False)
    values = collectives.measure_program(program, EIGHT, gathered=4, summed=4, scatters=False)
    assert values["unknown"] == 0
    if mesh == "data":
        few = 1000  # the loss's sums, the gradient's squares
        assert values["compiled"][mesh] == pytest.approx(values["theory"][mesh], abs=few)
    else:  # tables and the head, of use to one pass or to both at once, are gathered once
        assert 0.94 < values["compiled"][mesh] / values["theory"][mesh] < 1
    made = collectives.table({f"decoder {mesh} 8": values})
    assert [len(line) for line in made.lines] == [len(made.header)]


def test_what_was_measured_is_not_measured_again(tmp_path):
    out, file = tmp_path / "out", tmp_path / "asked"
    points = {
        "good": Point(arguments={"file": str(file), "fails": False}),
        "bad": Point(arguments={"file": str(file), "fails": True}),
    }
    told = []
    rows = measure(counted.PART, points, out, limit=60, log=told.append)
    assert rows.keys() == {"good"}
    assert rows["good"]["asked"] == 1
    assert "failed with code 1" in told[-1]
    assert "as told" in (out / "counted.log").read_text()
    again = measure(counted.PART, {"good": points["good"]}, out, limit=60, log=told.append)
    assert again == rows
    assert file.read_text() == "xx"
    kept = Results(out / "counted.json")
    assert not kept.has("good", Point(arguments={"file": str(file), "fails": None}))
    assert json.loads((out / "counted.json").read_text())["machine"]["cores"]


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    (tmp_path / "counted.json").write_text("[]")
    with pytest.raises(UserError, match=r"counted.json \(--out\) is not a result file of this benchmark"):
        measure(counted.PART, {}, tmp_path, limit=1, log=print)
    assert (tmp_path / "counted.json").read_text() == "[]"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dept"], r"unknown part 'dept'. Nearest: depth."),
        (["depth", "--only", "cpu decoder 13"], r"matches 'cpu decoder 13' \(--only\). Nearest: cpu decoder 12"),
        (["depth", "--rounds", "0"], r"rounds 0 \(--rounds\) is less than 1. Nearest: 1."),
    ],
)
def test_mistakes_are_told_in_a_line(words, told, tmp_path, capsys):
    assert main([*words, "--out", str(tmp_path)]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(told, line)


@pytest.mark.slow
def test_deeper_models_compile_to_the_same_program():
    sizes = [depth.measure("cpu", "decoder", layers, 1) for layers in (2, 5)]
    for language in ("jaxpr", "stablehlo"):
        assert sizes[0][language] == sizes[1][language] > 0
    made = depth.table({f"cpu decoder {layers}": values for layers, values in zip((12, 96), sizes, strict=True)})
    assert [len(line) for line in made.lines] == [len(made.header)] * 2
    assert "from 12 to 96 layers" in made.notes[0]


@pytest.mark.slow
def test_chunked_attention_needs_less_memory_the_longer_the_row():
    values = {f"{name} {n}": attention.measure(name, n) for name in attention.BACKENDS for n in (1024, 2048)}
    shares = [values[f"chunked {n}"]["temporaries"] / values[f"einsum {n}"]["temporaries"] for n in (1024, 2048)]
    assert shares[1] < shares[0] / 1.5 < 0.5
    made = attention.table(values)
    assert [len(line) for line in made.lines] == [len(made.header)] * 4


def test_the_power_of_growth_is_found():
    assert attention.order([(512, 3.0 * 512**2), (1024, 3.0 * 1024**2)]) == pytest.approx(2.0)


def test_a_line_is_fitted_to_relative_errors():
    intercept, slope, residual = tokens.fit([1, 10, 1000], [5, 14, 1004])
    assert (intercept, slope, residual) == pytest.approx((4, 1, 0), abs=1e-9)
    assert tokens.fit([1, 2, 3], [1, 2, 6])[2] > 0.1


def test_efficiency_is_one_where_dividing_costs_nothing():
    values = {"devices": [1, 2, 4], "seconds": [[1.0] * 5, [2.0] * 5, [8.0] * 5]}
    assert weak.efficiencies(values) == [1.0, 1.0, 0.5]


def test_the_peak_of_resident_memory_is_seen_after_it_is_over():
    before = memory.settled_memory()
    memory.reset_peak()
    block = np.ones(2**23)
    del block
    assert memory.resident("VmHWM") - before == pytest.approx(2**26, rel=0.1)


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_batches_are_what_a_step_wants(kind):
    program = tiny(kind, "data")
    batch = host_batch(program)
    same = jax.tree.map(lambda x, want: (x.shape, x.dtype) == (want.shape, want.dtype), batch, program.abstract_batch())
    assert all(jax.tree.leaves(same))
    assert batch.decoder.segments.all()
    assert batch.weights.all()
    assert 0 < batch.targets.min() <= batch.targets.max() < 96
