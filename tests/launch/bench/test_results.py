import dataclasses
import json

import pytest

from t2t.errors import UserError
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.results import Results, read
from t2t.launch.bench.show import digits, draw, format_value, ratios, show, show_ratios
from tests.launch.bench.workloads import QUICK, workload

RATE = Measurement(
    part="step",
    name="model FLOPs",
    unit="FLOP/s",
    samples=(2e9, 1e9, 4e9),
    share=0.25,
    of="measured float32 matmul",
    details={"model_flops": 3e9},
)
TIME = Measurement(part="step", name="step", unit="s", samples=(0.0731,), details={"mesh": "data 2"})


@pytest.fixture(scope="module")
def results():
    made = Results.begin("gpt:quickstart", ["--mesh.data", "2"], workload().experiment, QUICK, batches="synthetic")
    return made.added(RATE).added(TIME).noted("a note").noted("a note")


def test_a_measurement_has_its_median_and_outer_tenths():
    assert RATE.median == 2e9
    assert RATE.quantile(0.1) == pytest.approx(1.2e9)
    assert RATE.quantile(0.9) == pytest.approx(3.6e9)


def test_a_file_read_back_is_what_was_written(results, tmp_path):
    path = tmp_path / "results.json"
    results.write(path)
    assert read(path) == results
    values = json.loads(path.read_text())
    assert values["measurements"][0]["samples"] == [2e9, 1e9, 4e9]
    assert values["notes"] == ["a note"]
    assert {"t2t", "jax", "python", "devices"} <= set(values["machine"])
    assert values["experiment"]["data"]["batch_size"] == 8
    assert [found.name for found in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"other\.json:1: not JSON"),
        ("[]", r"other\.json: \[\] is not an object"),
        ('{"recipe": "a"}', r"other\.json: not the results of t2t bench"),
    ],
)
def test_another_file_is_refused(text, said, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read(path)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read(tmp_path / "nothing.json")


def test_a_table_tells_units_shares_and_the_machine(results, capsys):
    show(results)
    out = capsys.readouterr().out
    assert "gpt:quickstart --mesh.data 2 on 8 x cpu" in out
    (line,) = [" ".join(line.split()) for line in out.splitlines() if "model FLOPs" in line]
    assert line == "step model FLOPs 2.00 GFLOP/s 1.20 GFLOP/s 3.60 GFLOP/s 3 25.0% measured float32 matmul"
    assert "73.1 ms" in out
    assert out.endswith("a note\n")


def test_medians_are_compared_where_both_have_them(results, capsys):
    faster = dataclasses.replace(results, measurements=(dataclasses.replace(RATE, samples=(3e9,)),))
    ((one, other, ratio),) = ratios(results, faster)
    assert (one, other.median, ratio) == (RATE, 3e9, 1.5)
    show_ratios(results, faster, ["a.json", "b.json"])
    assert "1.500" in capsys.readouterr().out


def test_shares_are_drawn(results, tmp_path):
    draw(results, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0731, "s", "73.1 ms"),
        (12.3, "s", "12.3 s"),
        (4.2e-5, "s", "42.0 µs"),
        (1.5e9, "bytes", "1.50 GB"),
        (255e9, "FLOP/s", "255 GFLOP/s"),
        (14_500.0, "tokens/s", "14.5 k tokens/s"),
        (0.0625, "share", "6.2%"),
        (0.0, "programs", "0 programs"),
        (12.0, "bytes", "12.0 B"),
    ],
)
def test_values_are_spelled_with_three_digits(value, unit, text):
    assert format_value(value, unit) == text


def test_digits():
    assert [digits(value) for value in (1.234, 12.34, 123.4)] == ["1.23", "12.3", "123"]
