"""Results of a grid: each cell's measures over its seeds, and which published claims they confirm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from t2t import config
from t2t.errors import UserError, nearest
from t2t.json_files import expect, read_json
from t2t.launch.grid.costs import Costs
from t2t.launch.grid.design import Cell, Claim, Grid
from t2t.launch.grid.running import DONE, place
from t2t.train.metric_log import as_number

Verdict = Literal["held", "held, within the spread", "did not hold", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Value:
    """Mean of a measure over seeds. spread: sample standard deviation; None for one seed."""

    mean: float
    spread: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Value | None:
        """Return the mean and spread of the seeds' values, or None if there are no values."""
        if not values:
            return None
        spread = statistics.stdev(values) if len(values) > 1 else None
        return cls(mean=statistics.fmean(values), spread=spread, seeds=len(values))


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """Results of a cell. seeds: number of finished seeds; costs: costs of one training, the mean over seeds."""

    cell: Cell
    seeds: int
    values: dict[str, Value]
    costs: Costs | None


def read_results(grid: Grid, directory: Path) -> list[CellResult]:
    """Return the current result of each cell, including cells without a finished training."""
    return [_read(grid, cell, directory) for cell in grid.cells]


def _read(grid: Grid, cell: Cell, directory: Path) -> CellResult:
    found: dict[str, list[float]] = {name: [] for name in cell.measured}
    costs: list[Costs] = []
    for seed in grid.seeds:
        folder = place(directory, cell.name, seed)
        if not (folder / DONE).is_file():
            continue
        spent = config.loads((folder / DONE).read_bytes(), where=str(folder / DONE))
        if not isinstance(spent, Costs):
            raise UserError(f"{folder / DONE}: the file does not have the costs of a training")
        costs.append(spent)
        result = folder / "eval" / f"{cell.experiment.steps}.json"
        tasks = expect(read_json(result).get("tasks"), dict, f"{result}: tasks")
        for measure, keys in cell.measured.items():
            found[measure].append(statistics.fmean(_metric(tasks, key, folder) for key in keys))
    values = {name: value for name, numbers in found.items() if (value := Value.of(numbers)) is not None}
    return CellResult(cell=cell, seeds=len(costs), values=values, costs=_mean(costs))


def _metric(tasks: dict[str, Any], key: str, folder: Path) -> float:
    have = {
        f"{name}/{metric}": value
        for name, found in tasks.items()
        if isinstance(found, dict) and isinstance(found.get("metrics"), dict)
        for metric, value in found["metrics"].items()
    }
    if key not in have:
        raise UserError(f"{folder}: the evaluation has no metric {key}.{nearest(key, have)}")
    return float(expect(as_number(have[key]), float, f"{folder}: {key}"))


def _mean(costs: Sequence[Costs]) -> Costs | None:
    if not costs:
        return None
    first = costs[0]
    return Costs(
        parameters=first.parameters,
        tokens=statistics.fmean(cost.tokens for cost in costs),
        places=first.places,
        flops=first.flops,
        seconds=statistics.fmean(cost.seconds for cost in costs),
        decoding=tuple(
            replace(many[0], seconds=statistics.fmean(one.seconds for one in many))
            for many in zip(*(cost.decoding for cost in costs), strict=True)
        ),
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: an architecture with an objective, and its result at each stage."""

    name: str
    cells: dict[str, CellResult]


def rows(results: Sequence[CellResult]) -> list[Row]:
    """Return the rows, in the order of the grid."""
    names = list(dict.fromkeys(result.cell.row for result in results))
    return [
        Row(name=name, cells={result.cell.stage: result for result in results if result.cell.row == name})
        for name in names
    ]


def verdict(claim: Claim, grid: Grid, results: Sequence[CellResult]) -> tuple[Verdict, str]:
    """Return whether a claim holds, and the values of the closest pair, which decide it.

    The claim holds if every mean is on the right side. It holds "within the spread" if the smallest difference is below the root of the sum of the
    pair's squared spreads, or if there is only one seed, so that the spread is unknown.
    """
    values = {
        result.cell.row: result.values[claim.measure]
        for result in results
        if result.cell.stage == claim.stage and claim.measure in result.values
    }
    pairs = [(ahead, behind) for ahead in claim.better for behind in claim.than]
    if any(row not in values for pair in pairs for row in pair):
        return "not measured", ""
    sign = 1.0 if next(m for m in grid.measures if m.name == claim.measure).higher else -1.0

    def lead(pair: tuple[str, str]) -> float:
        return sign * (values[pair[0]].mean - values[pair[1]].mean)

    ahead, behind = min(pairs, key=lead)
    least = lead((ahead, behind))
    numbers = f"{ahead} {format_value(values[ahead])}, {behind} {format_value(values[behind])}"
    if least <= 0:
        return "did not hold", numbers
    spreads = [values[row].spread for row in (ahead, behind)]
    if None in spreads or least < math.hypot(*(spread or 0.0 for spread in spreads)):
        return "held, within the spread", numbers
    return "held", numbers


def format_value(value: Value | None) -> str:
    """Format a value with its spread, for example "0.412 ± 0.013"."""
    if value is None:
        return "–"
    digits = 3 if abs(value.mean) < 10 else 2 if abs(value.mean) < 100 else 1
    spread = "" if value.spread is None else f" ± {value.spread:.{digits}f}"
    return f"{value.mean:.{digits}f}{spread}"


def stages(results: Sequence[CellResult]) -> list[str]:
    """Return the stages in the results, in the order of the grid."""
    return list(dict.fromkeys(result.cell.stage for result in results))
