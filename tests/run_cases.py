"""Run a folder of regression cases: small inputs that failed in an earlier version, each with a `check.sh` that exits with 0 on success.

    python -m tests.run_cases FOLDER --run RUN [--only NAME ...] [--jobs 2]

The environment of a check has these variables: `T2T` is the t2t command, `PY` its Python, `HF` a Python with torch and transformers, and `RUN` a trained
and exported `t5:quickstart`. A check exits with 3 if its setup fails. This counts as a failure, because then the case tests nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

SET_UP = 3
SECONDS = 1200


class Result(NamedTuple):
    """The result of a case: its exit code (None after a timeout), its run time in seconds, and its output."""

    name: str
    code: int | None
    seconds: float
    said: str


def check(folder: Path, environment: dict[str, str]) -> Result:
    """Run the check.sh of a case."""
    began = time.perf_counter()
    try:
        done = subprocess.run(
            ["bash", str(folder / "check.sh")],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        code, said = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        code, said = None, late.stdout or b""
    return Result(folder.name, code, time.perf_counter() - began, said.decode(errors="replace"))


def main() -> int:
    """Print one line per case, and the output of failed cases. Return 1 if a case fails."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path, help="the folder of cases")
    words.add_argument("--run", type=Path, required=True, help="a trained and exported t5:quickstart")
    words.add_argument("--only", nargs="*", help="names of cases; all where none is given")
    words.add_argument("--jobs", type=int, default=2, help="cases at a time")
    words.add_argument("--hf", type=Path, default=None, help="a Python with torch and transformers")
    given = words.parse_args()
    folders = sorted(path.parent for path in given.folder.glob("*/check.sh"))
    if given.only:
        unknown = set(given.only) - {path.name for path in folders}
        if unknown:
            sys.exit(f"no such case: {', '.join(sorted(unknown))}")
        folders = [path for path in folders if path.name in given.only]
    if not folders:
        sys.exit(f"{given.folder}: no cases (NAME/check.sh) there")
    # Do not resolve the link: the Python of a virtual environment finds its packages only through the path of the link.
    binaries = Path(sys.executable).absolute().parent
    environment = {
        **os.environ,
        "T2T": str(binaries / "t2t"),
        "PY": str(binaries / "python"),
        "RUN": str(given.run.absolute()),
        **({"HF": str(given.hf.absolute())} if given.hf else {}),
    }
    failed = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        for result in pool.map(lambda folder: check(folder, environment), folders):
            failed += result.code != 0
            verdict = {0: "right", SET_UP: "set-up failed", None: "out of time"}.get(result.code, "wrong")
            print(f"{verdict:14} {result.seconds:5.0f} s  {result.name}", flush=True)
            if result.code != 0:
                print("".join(f"    {line}\n" for line in result.said.splitlines()[-20:]), end="", flush=True)
    print(f"{len(folders) - failed} of {len(folders)} cases are right")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
