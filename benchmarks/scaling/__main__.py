"""`python -m benchmarks.scaling PART --out DIR`."""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.scaling.measuring import measure
from benchmarks.scaling.part import Part, Point
from benchmarks.scaling.showing import picture, show
from t2t.errors import UserError, nearest

PARTS = ("depth", "tokens", "attention", "overhead", "weak", "collectives", "memory")
DONE, MISTAKE, STOPPED = 0, 2, 75


def main(arguments: Sequence[str]) -> int:
    """Measure a part and show it. Return the exit code: 0 done, 1 some points failed, 2 invalid option, 75 interrupted (all results are saved)."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.scaling", description=__doc__, epilog=f"parts: {', '.join(PARTS)}"
    )
    parser.add_argument("part", metavar="PART")
    parser.add_argument("--out", type=Path, required=True, help="directory for PART.json and PART.png")
    parser.add_argument(
        "--only", default="*", help="measure only points that match this pattern; --list prints their names"
    )
    parser.add_argument("--rounds", type=int, help="number of timings")
    parser.add_argument("--limit", type=float, default=1800.0, help="timeout of a point, in seconds")
    parser.add_argument("--list", action="store_true", help="print the names of the points and exit")
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _stop)
    try:
        part = _part(chosen.part)
        points = _points(part, chosen.rounds, chosen.only)
        if chosen.list:
            print("\n".join(points))
            return DONE
        rows = measure(part, points, chosen.out, limit=chosen.limit, log=lambda text: print(text, file=sys.stderr))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return STOPPED
    if rows:
        show(part, rows)
        picture(part, rows, chosen.out / f"{part.name}.png")
    return DONE if len(rows) == len(points) else 1


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _part(name: str) -> Part:
    if name not in PARTS:
        raise UserError(f"unknown part {name!r}.{nearest(name, PARTS)}")
    return importlib.import_module(f"benchmarks.scaling.{name}").PART


def _points(part: Part, rounds: int | None, only: str) -> Mapping[str, Point]:
    if rounds is not None and rounds < 1:
        raise UserError(f"rounds {rounds} (--rounds) is less than 1. Nearest: 1.")
    points = part.points(part.rounds if rounds is None else rounds)
    chosen = {name: point for name, point in points.items() if fnmatch.fnmatchcase(name, only)}
    if not chosen:
        raise UserError(f"no point of {part.name} matches {only!r} (--only).{nearest(only, points)}")
    return chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
