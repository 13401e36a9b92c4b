"""Draw curves as SVG inside an HTML page. Text takes the page's colour, so it is readable in light and dark mode."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import Any

from t2t.api.progress import large
from t2t.api.run_files import Series

COLOURS = ("#3b82f6", "#e8792b", "#2fa36b", "#d6456b", "#8b6fe8", "#1fa3b5", "#b58a1c", "#8a8f98")
"""Line colours of medium lightness: each has a contrast of at least 3 on white and on near-black."""
DASHES = ("-", "--", ":", "-.")
POINTS = 400
"""Maximum number of points of a line. Longer series are averaged."""

_INK = "#010203"
_GRID = "#040506"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One plot: named lines over the steps.

    log:  use a logarithmic axis if all values are positive and span more than an order of magnitude.
    zero: start the axis at 0 if no value is negative.
    """

    name: str
    lines: dict[str, Series]
    log: bool = False
    zero: bool = False


def svg(plot: Plot, *, width: float = 4.6, height: float = 2.7) -> str:
    """Draw a plot as an SVG element of `width` x `height` inches.

    Values that are not finite are left out. A line with more than `POINTS` points is divided into `POINTS` intervals.
    The line shows their means, and a band shows their minima and maxima.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": plot.name,  # ids in the SVG differ between the plots of a page, but are the same in every report
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        values = []
        for index, (name, series) in enumerate(plot.lines.items()):
            finite = [(step, value) for step, value in series if math.isfinite(value)]
            values += [value for _, value in finite]
            steps, means, lows, highs = thinned(finite)
            colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
            marker: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(steps) <= 20 else {}
            axes.plot(steps, means, dash, color=colour, linewidth=1.5, label=name, **marker)
            if len(steps) < len(finite):
                axes.fill_between(steps, lows, highs, color=colour, alpha=0.25, linewidth=0)
        if plot.log and values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_yscale("log")
            if max(values) < 1000 * min(values):  # too few powers of ten to label only these
                axes.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
            else:
                axes.yaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_major_formatter(FuncFormatter(_label))
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
            axes.yaxis.set_major_formatter(FuncFormatter(_label))
            if plot.zero and values and min(values) >= 0:
                axes.set_ylim(0, 1.05 * max(values) or 1)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_label))
        axes.set_xlabel("step")
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(plot.lines) > 1:
            axes.legend(frameon=False, fontsize=8, handlelength=1.8)
        file = io.StringIO()
        figure.savefig(
            file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _inline(file.getvalue(), plot.name)


def thinned(series: Series) -> tuple[list[float], list[float], list[float], list[float]]:
    """Return the steps, means, minima and maxima of at most `POINTS` intervals with equally many points."""
    size = math.ceil(len(series) / POINTS) or 1
    parts = [series[at : at + size] for at in range(0, len(series), size)]
    return (
        [sum(step for step, _ in part) / len(part) for part in parts],
        [sum(value for _, value in part) / len(part) for part in parts],
        [min(value for _, value in part) for part in parts],
        [max(value for _, value in part) for part in parts],
    )


def _label(value: float, _: int | None = None) -> str:
    if value and (abs(value) >= 10_000 or abs(value) < 1e-4):
        text = large(value) if abs(value) >= 10_000 else f"{value:.1e}"
        return re.sub(r"\.0+(?=\D|$)", "", text).replace("e-0", "e-")
    return f"{value:.6g}"


def _minor_label(value: float, _: int | None = None) -> str:
    leading = round(value / 10 ** math.floor(math.log10(value)))
    return _label(value) if leading in (2, 5) else ""


def _inline(text: str, name: str) -> str:
    """Prepare an SVG for a page: remove the XML header, use the colours of the page, and scale to the available width."""
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_GRID, "var(--line)")
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same ids in every plot
    text = re.sub(r'<text style="([^"]*)"', _page_font, text)
    return text.replace("<svg", f'<svg role="img" aria-label="{_attribute(name)} over steps"', 1)


def _page_font(match: re.Match[str]) -> str:
    """Keep a text's font size and use the font family of the page."""
    style = re.sub(r"font-family: [^;]*;", "", match[1])
    style = re.sub(r"font: [^;]*?([\d.]+px)[^;]*", r"font-size: \1", style)
    return f'<text style="{style}"'


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
