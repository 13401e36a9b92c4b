"""Two checkouts of this project side by side: `python -m benchmarks.versions BEFORE AFTER [--cases train,decode] --out versions.json`.

BEFORE and AFTER are directories of checkouts, each with its own `.venv`. They take turns: each round measures each case once in both.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import cases as known
from benchmarks.cases import Case
from benchmarks.session import Session
from t2t.errors import UserError


def command(checkout: Path, option: str) -> list[str]:
    """Return the words that start the peer of a checkout. Raises UserError if it has no environment."""
    python = checkout.absolute() / ".venv/bin/python"
    if not python.exists():
        raise UserError(
            f"{option} {checkout}: there is no {python}. Run `make {python.parent.parent.name}/installed` there."
        )
    return ["env", "-C", str(checkout.absolute()), str(python), "-m", "benchmarks.peers.ours"]


def cases(work: Sequence[str], scale: str) -> list[Case]:
    """Return the cases: AdamW steps of T5, GPT-2 and BERT; greedy and beam decoding of 1, 8 and 64 prompts with T5 and GPT-2."""
    found: list[Case] = []
    if "train" in work:
        found += known.train_cases(["t5", "gpt2", "bert"], ["adamw"], scale)
    if "decode" in work:
        found += known.decode_cases(["t5", "gpt2"], ["greedy", "beam"], [1, 8, 64], scale)
    return found


def table(results: dict[str, Any]) -> str:
    """Return a Markdown table of medians in seconds, and of ratios after / before."""
    lines = ["| case | before, s | after, s | ratio of medians | per round |", "| --- | --- | --- | --- | --- |"]
    for case in results["cases"]:
        rounds = {name: case["peers"][name].get("rounds") for name in ("before", "after")}
        if not all(rounds.values()):
            lines.append(f"| {case['name']} | | | not measured | |")
            continue
        before, after = ([statistics.median(seconds) for seconds in rounds[name]] for name in ("before", "after"))
        each = [late / early for early, late in zip(before, after, strict=False)]
        first, last = statistics.median(before), statistics.median(after)
        lines.append(
            f"| {case['name']} | {first:.3f} | {last:.3f} | {last / first:.2f} | {min(each):.2f} to {max(each):.2f} |"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print the table and write all samples."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.versions", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--work", default="train,decode")
    parser.add_argument("--only", default="", help="a part of the names of the cases to measure")
    parser.add_argument("--scale", choices=tuple(known.SCALES), default="full")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=2, help="runs per round and checkout")
    parser.add_argument("--out", type=Path, default=Path("versions.json"))
    chosen = parser.parse_args(words)
    commands = {"after": command(chosen.after, "AFTER"), "before": command(chosen.before, "BEFORE")}
    with Session(commands, chosen.out) as session:
        for case in cases(chosen.work.split(","), chosen.scale):
            if chosen.only in case.name:
                session.measure(case, rounds=chosen.rounds, repeats=chosen.repeats)
    print(table(session.results))


if __name__ == "__main__":
    main()
