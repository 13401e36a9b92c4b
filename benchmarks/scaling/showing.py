"""Show the results of a part as a table in the terminal and as a plot."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scaling.part import Part, Rows
from t2t.api.curves import COLOURS
from t2t.launch.output import console, table


def show(part: Part, rows: Rows) -> None:
    """Print the table and the notes."""
    result = part.table(rows)
    out = console()
    shown = table(out, *result.header, right=tuple(result.header[1:]))
    for line in result.lines:
        shown.add_row(*line)
    out.print(shown)
    for note in result.notes:
        out.print(note)


def picture(part: Part, rows: Rows, path: Path) -> None:
    """Save the plot of a part."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    part.draw(figure, rows)
    for axis in figure.axes:
        axis.grid(color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def lines(
    axis: Any, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, x: str, y: str, log: bool = False
) -> None:
    """Plot named series.

    log: use logarithmic scales for both axes.
    """
    for colour, (name, (xs, ys)) in zip(COLOURS * 3, series.items(), strict=False):
        axis.plot(xs, ys, "o-", color=colour, markersize=4, label=name)
    if log and series:
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if series:
        axis.legend(frameon=False, fontsize=8)


def size(count: float) -> str:
    """Format a number of bytes, for example 1.23 GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(count) >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count:.0f} B"
