"""Results -> medians, ratios to ours, the share of the machine's matrix-product rate; as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.session import OURS


@dataclass(frozen=True, kw_only=True)
class Row:
    """A peer in a case.

    seconds: median of all runs; for data, the median round's processor seconds a run.
    rate:    tokens a second; for data, a second of one core.
    ratio:   seconds a token over ours, ratio of the medians: how many times as long it takes; lowest and highest: the same of single rounds.
    share:   of the machine's float32 matrix-product rate, by the FLOPs of our model's forward pass three times.
    note:    why there are no numbers, or what is to be known of them.
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
    """Return a row for each case and peer, in the order they were measured."""
    ceiling = results.get("ceilings", {}).get("matmul", {}).get("float32")
    made = []
    for entry in results["cases"]:
        ours = entry["peers"].get(OURS, {})
        own = _each_round(entry, ours)
        for peer, facts in entry["peers"].items():
            own_rounds = _each_round(entry, facts)
            if not own_rounds:
                note = facts.get("unsupported") or facts.get("error") or "not measured"
                made.append(Row(case=entry["name"], peer=peer, note=note))
                continue
            seconds, tokens = _middle(entry, facts), facts["tokens"]
            ratio = lowest = highest = share = None
            if own:
                scale = ours["tokens"] / tokens
                ratio = scale * seconds / _middle(entry, ours)
                single = [scale * theirs / our for theirs, our in zip(own_rounds, own, strict=False)]
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
            made.append(row)
    return made


def text(results: Mapping[str, Any]) -> str:
    """Return a Markdown table. Its ratio is how many times as long as ours a peer takes for a token; in brackets the rounds' lowest and highest."""
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
    """Draw the ratios, a group of bars a case; the suffix of `path` says the format. Return False where there are none."""
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
        own = [row for row in shown if row.peer == peer]
        at = [cases.index(row.case) + (place - (len(others) - 1) / 2) * height for row in own]
        bars = axes.barh(at, [row.ratio or 0.0 for row in own], height, label=peer)
        axes.bar_label(bars, fmt="%.2f", padding=2)
    axes.margins(x=0.1)  # the longest bar's number stands beside it
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xlabel("time a token, times ours (more than 1: ours is faster)")
    axes.legend()
    figure.savefig(path)
    pyplot.close(figure)
    return True


def _each_round(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> list[float]:
    """Return a round's seconds a run: of the clock its median, for data those of the processor."""
    if entry["case"]["work"] == "data":
        return [cpu / len(seconds) for cpu, seconds in zip(facts.get("cpu", []), facts.get("rounds", []), strict=False)]
    return [median(seconds) for seconds in facts.get("rounds", [])]


def _middle(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> float:
    if entry["case"]["work"] == "data":
        return median(_each_round(entry, facts))
    return median(second for seconds in facts["rounds"] for second in seconds)


def _note(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    known = [f"{facts['parameters']:,} parameters"] if "parameters" in facts else []
    known += [f"{facts['rows']} rows"] if "rows" in facts else []
    known += [f"{facts['how']}, {facts['filled']:.0%} filled"] if "filled" in facts else []
    known += [facts["attention"]] if facts.get("attention") else []
    busy = sum(facts["idle"]) / max(sum(sum(seconds) for seconds in facts["rounds"]), 1e-9)
    known += [f"others took {busy:.0%} of a core meanwhile"] if busy > 0.02 else []
    known += [f"ended early: {facts['error']}"] if "error" in facts else []
    return ", ".join(known)
