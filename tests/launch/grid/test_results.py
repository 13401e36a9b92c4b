"""Means over seeds, verdicts on orderings, and the table."""

from __future__ import annotations

import statistics
from dataclasses import replace

import pytest

from t2t.api.recipes import quickstart_t5
from t2t.launch.grid import Cell, Claim, Grid, Measure
from t2t.launch.grid.costs import Costs, DecodingCosts
from t2t.launch.grid.results import CellResult, Value, format_value, verdict
from t2t.launch.grid.show import cells, markdown

CLAIM = Claim(
    text="A ahead of B", source="paper", measure="score", stage="pretrained", better=("A / x",), than=("B / x",)
)


def _grid(higher=True):
    made = [Cell(architecture=name, objective="x", experiment=quickstart_t5()) for name in "ABC"]
    return Grid(cells=tuple(made), measures=(Measure(name="score", about="of it", higher=higher),), claims=(CLAIM,))


def _results(grid, **scores):
    costs = Costs(parameters=10, tokens=20.0, places=30, flops=4e9, seconds=5.0)
    return [
        CellResult(
            cell=cell,
            seeds=len(scores.get(cell.architecture, ())),
            values={"score": Value.of(scores[cell.architecture])} if cell.architecture in scores else {},
            costs=costs if cell.architecture in scores else None,
        )
        for cell in grid.cells
    ]


def test_a_value_is_the_mean_and_the_sample_deviation_of_the_seeds():
    value = Value.of([1.0, 2.0, 4.0])
    assert value.mean == pytest.approx(7 / 3)
    assert value.spread == pytest.approx(statistics.stdev([1.0, 2.0, 4.0]))
    assert Value.of([1.0]).spread is None
    assert Value.of([]) is None
    assert format_value(Value.of([0.5, 0.7])) == "0.600 ± 0.141"


@pytest.mark.parametrize(
    ("a", "b", "higher", "expected"),
    [
        ([0.9, 0.91], [0.5, 0.51], True, "held"),
        ([0.5, 0.51], [0.9, 0.91], True, "did not hold"),
        ([0.5, 0.51], [0.9, 0.91], False, "held"),
        ([0.5, 0.9], [0.6, 0.7], True, "held, within the spread"),
        ([0.9], [0.5], True, "held, within the spread"),  # one seed tells of no spread
        ([0.5, 0.6], [0.5, 0.6], True, "did not hold"),  # equal is not ahead
    ],
)
def test_a_verdict_looks_at_the_closest_pair_and_its_spread(a, b, higher, expected):
    grid = _grid(higher)
    assert verdict(CLAIM, grid, _results(grid, A=a, B=b))[0] == expected


def test_what_was_not_measured_has_no_verdict():
    grid = _grid()
    assert verdict(CLAIM, grid, _results(grid, A=[0.9, 0.91])) == ("not measured", "")


def test_the_table_has_the_costs_of_decoding_if_they_were_measured():
    grid = _grid()
    first, *others = _results(grid, A=[0.5], B=[0.25])
    assert first.costs is not None
    decoding = tuple(DecodingCosts(tokens=n, bytes=8 * n, seconds=n / 1e5) for n in (1024, 128))
    results = [replace(first, costs=replace(first.costs, decoding=decoding)), *others]
    header, body = cells(grid, results)
    assert header[-4:] == [
        "KB after 128 tokens",
        "KB after 1,024 tokens",
        "ms after 128 tokens",
        "ms after 1,024 tokens",
    ]
    assert [line[-4:] for line in body] == [["1.0", "8.2", "1.28", "10.24"], ["–"] * 4, ["–"] * 4]


def test_the_table_has_each_row_with_its_values_and_costs():
    grid = _grid()
    header, body = cells(grid, _results(grid, A=[0.5, 0.7], B=[0.25, 0.25]))
    assert header == ["", "score, pretrained", "parameters", "tokens", "FLOPs", "time", "tokens/s"]
    assert [line[:2] for line in body] == [["A / x", "0.600 ± 0.141"], ["B / x", "0.250 ± 0.000"], ["C / x", "–"]]
    text = markdown(grid, _results(grid, A=[0.5, 0.7], B=[0.25, 0.25]))
    assert "- held: A ahead of B (paper; score, pretrained): A / x 0.600 ± 0.141, B / x 0.250 ± 0.000" in text
    assert "4 of 9 trainings done" in text
