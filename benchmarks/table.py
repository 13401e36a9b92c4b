"""Show results as a table and a plot: medians, ratios to ours, and the fraction of the machine's matrix-product rate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.session import OURS


@dataclass(frozen=True, kw_only=True)
class Row:
    """The result of one peer in one case.

    seconds: median of all runs; for data, the CPU seconds per run of the median round.
    rate:    tokens per second; for data, tokens per CPU second.
    ratio:   seconds per token divided by ours (ratio of the medians).
    lowest:  lowest ratio of a single round.
    highest: highest ratio of a single round.
    share:   fraction of the machine's float32 matrix-product rate, with three times the FLOPs of our model's forward pass.
    note:    why there are no numbers, or remarks about them.
    """

    case: str
    peer: str
    seconds: float | None = None
    rate: float | None = None
    ratio: float | None = None
    lowest: float | None = None
    highest: float | None = None
    share: float | None = None
    note: str = ""


def rows(results: Mapping[str, Any]) -> list[Row]:
    """Return one row per case and peer, in the order of measurement."""
    ceiling = results.get("ceilings", {}).get("matmul", {}).get("float32")
    table = []
    for entry in results["cases"]:
        ours = entry["peers"].get(OURS, {})
        our_rounds = _each_round(entry, ours)
        for peer, facts in entry["peers"].items():
            rounds = _each_round(entry, facts)
            if not rounds:
                note = facts.get("unsupported") or facts.get("error") or "not measured"
                table.append(Row(case=entry["name"], peer=peer, note=note))
                continue
            seconds, tokens = _median(entry, facts), facts["tokens"]
            ratio = lowest = highest = share = None
            if our_rounds:
                scale = ours["tokens"] / tokens
                ratio = scale * seconds / _median(entry, ours)
                single = [scale * theirs / our for theirs, our in zip(rounds, our_rounds, strict=False)]
                lowest, highest = min(single), max(single)
            if ceiling and "flops" in ours:
                share = ours["flops"] / seconds / ceiling
            row = Row(
                case=entry["name"],
                peer=peer,
                seconds=seconds,
                rate=tokens / seconds,
                ratio=ratio,
                lowest=lowest,
                highest=highest,
                share=share,
                note=_note(entry, facts),
            )
            table.append(row)
    return table


def text(results: Mapping[str, Any]) -> str:
    """Return a Markdown table. The ratio is a peer's time per token divided by ours, with the lowest and highest round in brackets."""
    head = ("case", "peer", "seconds", "tokens/s", "times ours", "of matmul rate", "")
    lines = ["| " + " | ".join(head) + " |", "| --- | --- | ---: | ---: | ---: | ---: | --- |"]
    for row in rows(results):
        numbers = ["", "", "", ""]
        if row.seconds is not None and row.rate is not None:
            numbers[:2] = [f"{row.seconds:.4g}", f"{row.rate:,.0f}"]
        if row.ratio is not None:
            numbers[2] = f"{row.ratio:.2f} ({row.lowest:.2f} to {row.highest:.2f})"
        if row.share is not None:
            numbers[3] = f"{row.share:.0%}"
        lines.append(f"| {row.case} | {row.peer} | {' | '.join(numbers)} | {row.note} |")
    return "\n".join(lines)


def picture(results: Mapping[str, Any], path: Path) -> bool:
    """Plot the ratios, with one group of bars per case. The suffix of `path` sets the format. Return False if there are no ratios."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows(results) if row.ratio is not None]
    others = list(dict.fromkeys(row.peer for row in shown if row.peer != OURS))
    cases = list(dict.fromkeys(row.case for row in shown if row.peer != OURS))
    if not others:
        return False
    height = 0.8 / len(others)
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.4 * len(cases) * len(others)), layout="constrained")
    for place, peer in enumerate(others):
        peer_rows = [row for row in shown if row.peer == peer]
        at = [cases.index(row.case) + (place - (len(others) - 1) / 2) * height for row in peer_rows]
        bars = axes.barh(at, [row.ratio or 0.0 for row in peer_rows], height, label=peer)
        axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.margins(x=0.1)  # space for the label of the longest bar
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xlabel("time per token, relative to ours (more than 1: ours is faster)")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
    return True


def _each_round(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> list[float]:
    """Return the seconds per run of each round: the median wall time, or for data the CPU time."""
    if entry["case"]["work"] == "data":
        return [cpu / len(seconds) for cpu, seconds in zip(facts.get("cpu", []), facts.get("rounds", []), strict=False)]
    return [median(seconds) for seconds in facts.get("rounds", [])]


def _median(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> float:
    if entry["case"]["work"] == "data":
        return median(_each_round(entry, facts))
    return median(second for seconds in facts["rounds"] for second in seconds)


def _note(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    known = [f"{facts['parameters']:,} parameters"] if "parameters" in facts else []
    known += [f"{facts['rows']} rows"] if "rows" in facts else []
    known += [f"{facts['how']}, {facts['filled']:.0%} filled"] if "filled" in facts else []
    known += [facts["attention"]] if facts.get("attention") else []
    busy = sum(facts["idle"]) / max(sum(sum(seconds) for seconds in facts["rounds"]), 1e-9)
    known += [f"idle peers used {busy:.0%} of a core"] if busy > 0.02 else []
    known += [f"ended early: {facts['error']}"] if "error" in facts else []
    return ", ".join(known)
