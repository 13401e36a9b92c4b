"""Choose the test files that `make quick` runs: those that take the least time.

    make test PYTEST="--durations=0 --durations-min=0.2" | tee report.txt
    python -m tests.quick report.txt > tests/quick.txt

The time of a file is the sum of the times of its tests in the report. The quickest files come first, until their times add up to `--seconds`.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from pathlib import Path

DURATION = re.compile(r"^([\d.]+)s (?:call|setup|teardown) +(tests/\S+?\.py)::")
FILE = 0.3
"""Seconds of a file whose tests are all too quick for the report."""


def quickest(report: str, files: list[str], seconds: float) -> list[str]:
    """Return the names of the files to run, sorted."""
    times: dict[str, float] = defaultdict(float)
    for line in report.splitlines():
        if found := DURATION.match(line):
            times[found[2]] += float(found[1])
    chosen, total = [], 0.0
    for file in sorted(files, key=lambda name: (times[name], name)):
        total += max(times[file], FILE)
        if total > seconds:
            break
        chosen.append(file)
    return sorted(chosen)


def main() -> None:
    """Print the files, one per line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    files = [path.as_posix() for path in Path("tests").rglob("test_*.py")]
    print("\n".join(quickest(given.report.read_text(encoding="utf-8"), files, given.seconds)))


if __name__ == "__main__":
    main()
