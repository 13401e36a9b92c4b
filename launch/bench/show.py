"""Show results as a table or a picture, and compare two results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from t2t.api.curves import COLOURS
from t2t.api.progress import share
from t2t.launch.bench.measurement import Measurement
from t2t.launch.bench.results import Results
from t2t.launch.output import console, table

PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def show(results: Results) -> None:
    """Print all measurements with their shares of the machine's limits, and the notes."""
    out = console()
    out.print(title(results), style="bold")
    out.print(conditions(results))
    out.print()
    right = ("median", "10%", "90%", "samples", "share")
    rows = table(out, "part", "quantity", *right, "of", right=right)
    part = ""
    for it in results.measurements:
        single = len(it.samples) == 1
        rows.add_row(
            it.part if it.part != part else "",
            it.name,
            format_value(it.median, it.unit),
            "" if single else format_value(it.quantile(0.1), it.unit),
            "" if single else format_value(it.quantile(0.9), it.unit),
            f"{len(it.samples):,}",
            "" if it.share is None else f"{it.share:.1%}",
            it.of,
        )
        part = it.part
    out.print(rows)
    lines = [*stages(results), *results.notes]
    if lines:
        out.print()
    for line in lines:
        out.print(line)


def title(results: Results) -> str:
    """Return a line with the recipe, the options and the machine."""
    devices = ", ".join(f"{it['count']} x {it['kind']}" for it in results.machine.get("devices", ()))
    cpu, cores = results.machine.get("cpu", "?"), results.machine.get("cores", "?")
    return f"{' '.join([results.recipe, *results.options])} on {devices} ({cpu}, {cores} cores)"


def conditions(results: Results) -> str:
    """Return a line with the versions and the settings."""
    versions = " ".join(f"{name} {results.machine[name]}" for name in ("jax", "flax") if name in results.machine)
    settings = results.settings
    return (
        f"{versions}; {settings.get('batches', '')} batches; up to {settings['repeats']} samples or {settings['seconds']:g} s per quantity,"
        " after a warm-up; median of all samples"
    )


def stages(results: Results) -> list[str]:
    """Return a line for each first step with the time of its stages."""
    lines = []
    for it in results.of("start"):
        if it.name.startswith("first step"):
            spent = (f"{stage} {format_value(float(value), 's')}" for stage, value in it.details.items())
            lines.append(f"{it.name}: {', '.join(spent)}")
    return lines


def format_value(value: float, unit: str) -> str:
    """Format a value with its unit and three significant digits: 73.1 ms, 1.52 GB, 14.5 k tokens/s."""
    if unit == "s":
        for size, name in ((1.0, "s"), (1e-3, "ms")):
            if value >= size:
                return f"{digits(value / size)} {name}"
        return f"{digits(value / 1e-6)} µs"
    if unit == "share":
        return share(value) if value in (0.0, 1.0) else f"{value:.1%}"
    if unit == "programs":
        return f"{value:g} programs"
    unit = unit.replace("bytes", "B")
    for size, letter in PREFIXES:
        if value >= size:
            gap = "" if unit.startswith(("B", "FLOP")) else " "
            return f"{digits(value / size)} {letter}{gap}{unit}"
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """Format a number from 1 to 1,000 with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def draw(results: Results, path: Path) -> None:
    """Draw the shares of the ceilings as bars, with a colour for each part. Measurements without a share are skipped."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    shown = [it for it in results.measurements if it.share is not None]
    figure = Figure(figsize=(9, 1.6 + 0.3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    parts = list(dict.fromkeys(it.part for it in shown))
    for part, colour in zip(parts, COLOURS, strict=False):
        places = [place for place, it in enumerate(shown) if it.part == part]
        bars = axis.barh(places, [shown[place].share or 0.0 for place in places], color=colour, label=part, height=0.7)
        labels = [
            f"{shown[place].share:.0%}  {format_value(shown[place].median, shown[place].unit)}" for place in places
        ]
        axis.bar_label(bars, labels, padding=3, fontsize=8)
    axis.set_yticks(range(len(shown)), [f"{it.name} / {it.of}" for it in shown], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1.25 * max([1.0, *(it.share or 0.0 for it in shown)]))
    axis.axvline(1.0, linestyle="--", color="#8a8f98", linewidth=1)
    axis.xaxis.set_major_formatter(PercentFormatter(1.0))
    axis.set_title(f"{title(results)}\nshare of the machine's limits", fontsize=9)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if parts:
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    partial = path.with_name(f".{path.name}.partial")
    figure.savefig(partial, dpi=110, format="png")
    partial.replace(path)


def ratios(first: Results, second: Results) -> list[tuple[Measurement, Measurement, float]]:
    """Return the measurements that both results have, with the ratio of their medians (second / first)."""
    others = {(it.part, it.name): it for it in second.measurements}
    return [
        (it, other, other.median / it.median)
        for it in first.measurements
        if (other := others.get((it.part, it.name))) is not None and it.median
    ]


def show_ratios(first: Results, second: Results, names: Sequence[str]) -> None:
    """Print the medians of two results and their ratios."""
    out = console()
    for name, results in zip(names, (first, second), strict=True):
        out.print(f"{name}: {title(results)}", style="bold")
    out.print()
    right = ("first", "second", "second / first")
    rows = table(out, "part", "quantity", *right, right=right)
    for one, other, ratio in ratios(first, second):
        rows.add_row(
            one.part,
            one.name,
            format_value(one.median, one.unit),
            format_value(other.median, other.unit),
            f"{ratio:.3f}",
        )
    out.print(rows)
