"""`t2t grid GRID --dir DIR [--workers N] [--option value ...]`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2t.api.quiet import import_tensorflow, register_tasks
from t2t.api.user_code.imports import function_of, own_code
from t2t.errors import UserError, nearest
from t2t.launch import parse
from t2t.launch.codes import DONE, FAILED, MISTAKE, STOPPED
from t2t.launch.grid.comparison import GRIDS, Comparison
from t2t.launch.grid.design import Grid
from t2t.launch.grid.running import Worker, check_same, train_vocabulary, trainings
from t2t.launch.grid.show import show
from t2t.launch.output import console, table
from t2t.paths import check_directory
from t2t.train.stop import handle

WORKER = "T2T_GRID_WORKER"
"""Set in a worker's environment: its number and how many there are, "0/2"."""


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Train a grid's cells, or go on with them, and show what came out."""
    words = argparse.ArgumentParser(prog="t2t grid", add_help=False, allow_abbrev=False, exit_on_error=False)
    words.add_argument("grid", nargs="?")
    words.add_argument("--dir")
    words.add_argument("--workers", type=int, default=1)
    words.add_argument("--list", action="store_true")
    try:
        given, rest = words.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"t2t grid: {error}") from None
    if given.grid is None and {"-h", "--help"} & set(rest):
        given.grid = next(iter(GRIDS))
    if given.grid is None or given.grid.startswith("-"):
        raise UserError(
            f"t2t grid: which grid? {', '.join(GRIDS)}, or your own FILE.py:function: t2t grid small --dir DIR"
        )
    grid = _grid(given.grid, rest)
    if given.list:
        _list(grid)
        return DONE
    if given.dir is None:
        raise UserError(f"t2t grid {given.grid}: where to? --dir DIR names the grid's directory")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= given.workers <= cores:
        raise UserError(
            f"--workers {given.workers}: there are {cores} cores for them. Nearest: {min(max(given.workers, 1), cores)}."
        )
    directory = check_directory(given.dir, "--dir")
    if WORKER in os.environ or given.workers == 1:
        return _work(grid, directory, given.grid)
    return _spread(grid, directory, given.workers)


def _grid(name: str, rest: Sequence[str]) -> Grid:
    prog = f"t2t grid {name}"
    if ":" not in name:
        if name not in GRIDS:
            raise UserError(f"unknown grid {name!r}.{nearest(name, GRIDS)}")
        recipe: Any = GRIDS[name]
    else:
        import_tensorflow()  # a grid of the user's own is likely to register tasks
        recipe = function_of(name, option="grid")
    made = recipe()
    if isinstance(made, Comparison):
        about = f"{(recipe.__doc__ or '').strip()}\n\n--dir DIR (required) is the grid's directory; --workers N trains so many cells at a time; --list shows them."
        return parse.override(made, rest, prog=prog, description=about, also=("--dir", "--workers", "--list")).build()
    if not isinstance(made, Grid):
        raise UserError(
            f"{prog}: {name.rpartition(':')[2]}() returned {type(made).__name__}, not a Grid or a Comparison"
        )
    if rest:
        raise UserError(
            f"{prog}: unknown option {rest[0]}: a Grid is run as it is; return a Comparison to have options"
        )
    return made


def _list(grid: Grid) -> None:
    out = console()
    shown = table(out, "cell", "stage", "trained on", "steps", "after", right=("steps",))
    for cell in grid.cells:
        shown.add_row(
            cell.row, cell.stage, cell.experiment.data.task, f"{cell.experiment.steps:,}", cell.after or "random"
        )
    out.print(shown)
    out.print(f"\n{len(grid.cells)} cells x {len(grid.seeds)} seeds", style="dim")


def _work(grid: Grid, directory: Path, name: str) -> int:
    """Be the only worker, or one of several."""
    place = os.environ.get(WORKER)
    if place is not None and hasattr(os, "sched_setaffinity"):
        number, count = map(int, place.split("/"))
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number * len(cores) // count : (number + 1) * len(cores) // count])

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    register_tasks()
    directory.mkdir(parents=True, exist_ok=True)
    train_vocabulary(grid, directory, say)
    check_same(grid, directory)
    worker = Worker(grid, directory, f"grid:{name}", own_code(), say)
    stopped = worker.run()
    if place is None:
        return _end(grid, directory, stopped, [training.name for training in worker.failures()])
    return STOPPED if stopped else FAILED if worker.failures() else DONE


def _spread(grid: Grid, directory: Path, count: int) -> int:
    """Start workers, which share the machine's cores, and show what came out when all have ended."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "t2t.launch", *sys.argv[1:]],
            env={**os.environ, WORKER: f"{number}/{count}"},
            start_new_session=True,
        )
        for number in range(count)
    ]

    def forward(number: int, frame: object) -> None:
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)

    before = handle(forward)
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if MISTAKE in codes:
        return MISTAKE
    failed = [training.name for training in trainings(grid, directory) if not training.done] if any(codes) else []
    return _end(grid, directory, STOPPED in codes, failed)


def _end(grid: Grid, directory: Path, stopped: bool, failed: list[str]) -> int:
    show(grid, directory)
    if stopped:
        print("stopped with everything saved; the same command goes on", file=sys.stderr)
        return STOPPED
    if failed:
        print(f"failed or not begun because of it: {'; '.join(failed)}; the same command tries again", file=sys.stderr)
        return FAILED
    return DONE
