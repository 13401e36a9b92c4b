"""Show a grid's results: a table for the terminal and in Markdown, and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from t2t.api.curves import COLOURS
from t2t.api.progress import duration, large
from t2t.launch.grid.design import Grid
from t2t.launch.grid.results import CellResult, Row, format_value, read_results, rows, stages, verdict
from t2t.launch.output import console, table

TABLE, RESULTS, PICTURE = "table.md", "results.json", "grid.png"
COSTS = ("parameters", "tokens", "FLOPs", "time", "tokens/s")


def show(grid: Grid, directory: Path) -> None:
    """Print the table and the verdicts. Write them and the picture to the grid's directory."""
    results = read_results(grid, directory)
    if not any(result.seeds for result in results):
        return
    out = console()
    header, body = cells(grid, results)
    shown = table(out, *header, right=tuple(header[1:]))
    for row in body:
        shown.add_row(*row)
    out.print(shown)
    out.print()
    for line in [*captions(grid, results), *verdicts(grid, results)]:
        out.print(line)
    _write(directory / TABLE, markdown(grid, results))
    _write(directory / RESULTS, json.dumps([_plain(result) for result in results], indent=1) + "\n")
    draw(grid, results, directory / PICTURE)
    out.print(f"\n{directory / TABLE}, {directory / RESULTS}, {directory / PICTURE}")


def cells(grid: Grid, results: Sequence[CellResult]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table: each measure at each stage that has it, then the costs of the row.

    KB and ms after a number of tokens: what the layers store about these tokens, and the time to decode one more.
    """
    columns = [
        (measure.name, stage)
        for stage in stages(results)
        for measure in grid.measures
        if any(result.cell.stage == stage and measure.name in result.values for result in results)
    ]
    decoded = sorted({cost.tokens for result in results if result.costs for cost in result.costs.decoding})
    header = ["", *(f"{name}, {stage}" for name, stage in columns), *COSTS]
    header += [f"{what} after {tokens:,} tokens" for what in ("KB", "ms") for tokens in decoded]
    return header, [
        [row.name, *(_value(row, name, stage) for name, stage in columns), *_costs(row), *_decoding(row, decoded)]
        for row in rows(results)
    ]


def _value(row: Row, measure: str, stage: str) -> str:
    cell = row.cells.get(stage)
    return format_value(None if cell is None else cell.values.get(measure))


def _costs(row: Row) -> list[str]:
    known = [cell.costs for cell in row.cells.values() if cell.costs is not None]
    if not known:
        return ["–"] * len(COSTS)
    return [
        " + ".join(dict.fromkeys(large(cost.parameters) for cost in known)),
        " + ".join(large(cost.tokens) for cost in known),
        " + ".join(f"{cost.flops:.2g}" for cost in known),
        " + ".join(duration(cost.seconds) for cost in known),
        " + ".join(large(cost.tokens / cost.seconds) for cost in known),
    ]


def _decoding(row: Row, decoded: Sequence[int]) -> list[str]:
    """Return the kilobytes of state after each number of tokens, then the milliseconds of a step."""
    found = {cost.tokens: cost for cell in row.cells.values() if cell.costs is not None for cost in cell.costs.decoding}
    known = [found.get(tokens) for tokens in decoded]
    return [
        *("–" if cost is None else f"{cost.bytes / 1000:,.1f}" for cost in known),
        *("–" if cost is None else f"{cost.seconds * 1000:.2f}" for cost in known),
    ]


def captions(grid: Grid, results: Sequence[CellResult]) -> list[str]:
    """Return lines that describe the columns."""
    done = sum(result.seeds for result in results)
    lines = [
        f"{done} of {len(grid.cells) * len(grid.seeds)} trainings done; mean ± sample standard deviation over {len(grid.seeds)} seed"
        f"{'s' if len(grid.seeds) > 1 else ''}. Costs of one training: {' + '.join(stages(results))}."
    ]
    for measure in grid.measures:
        chance = "" if measure.chance is None else f", chance {measure.chance:.3f}"
        lines.append(f"{measure.name}: {measure.about} ({'more' if measure.higher else 'less'} is better{chance}).")
    return [*lines, *grid.notes]


def verdicts(grid: Grid, results: Sequence[CellResult]) -> list[str]:
    """Return a line for each published ordering."""
    lines = []
    for claim in grid.claims:
        found, numbers = verdict(claim, grid, results)
        line = f"{found}: {claim.text} ({claim.source}; {claim.measure}, {claim.stage})"
        lines.append(f"{line}: {numbers}" if numbers else line)
    return lines


def markdown(grid: Grid, results: Sequence[CellResult]) -> str:
    """Return the table, the captions and the verdicts in Markdown."""
    header, body = cells(grid, results)
    lines = [f"| {' | '.join(header)} |", f"| --- |{' ---: |' * (len(header) - 1)}"]
    lines += [f"| {' | '.join(line)} |" for line in body]
    notes = [f"- {line}" for line in captions(grid, results)]
    found = [f"- {line}" for line in verdicts(grid, results)]
    return "\n".join([*lines, "", *notes, *(["", "Published orderings:", "", *found] if found else [])]) + "\n"


def draw(grid: Grid, results: Sequence[CellResult], path: Path) -> None:
    """Draw a panel for each measure: a line for each row, a colour for each stage, error bars for the spread, a dashed line for chance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines, drawn = rows(results), [m for m in grid.measures if any(m.name in r.values for r in results)]
    figure = Figure(figsize=(3 + 3.2 * len(drawn), 1.2 + 0.32 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(drawn), sharey=True, squeeze=False)[0]
    for place, (axis, measure) in enumerate(zip(axes, drawn, strict=True)):
        for colour, stage in zip(COLOURS, stages(results), strict=False):
            points = [
                (at, value)
                for at, row in enumerate(lines)
                if stage in row.cells and (value := row.cells[stage].values.get(measure.name)) is not None
            ]
            if points:
                axis.errorbar(
                    [value.mean for _, value in points],
                    [at for at, _ in points],
                    xerr=[value.spread or 0.0 for _, value in points],
                    fmt="o",
                    color=colour,
                    markersize=5,
                    capsize=3,
                    label=stage,
                )
        if measure.chance is not None:
            axis.axvline(measure.chance, linestyle="--", color="#8a8f98", linewidth=1)
        axis.set_title(f"{measure.name} ({'more' if measure.higher else 'less'} is better)", fontsize=9)
        axis.grid(axis="both", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if place == 0:
            axis.set_yticks(range(len(lines)), [row.name for row in lines])
            axis.invert_yaxis()
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), frameon=False)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def _plain(result: CellResult) -> dict[str, object]:
    cell = result.cell
    return {
        "name": cell.name,
        "row": cell.row,
        "stage": cell.stage,
        "seeds": result.seeds,
        "values": {name: asdict(value) for name, value in result.values.items()},
        "costs": None if result.costs is None else asdict(result.costs),
    }


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
