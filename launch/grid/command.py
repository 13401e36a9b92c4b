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
from t2t.launch.grid.design import Design, Grid
from t2t.launch.grid.designs import GRIDS
from t2t.launch.grid.running import Worker, check_same, train_vocabulary, trainings
from t2t.launch.grid.show import show
from t2t.launch.output import console, table
from t2t.paths import check_directory
from t2t.train.stop import handle

WORKER = "T2T_GRID_WORKER"
"""Environment variable of a worker: its number and the number of workers, for example "0/2"."""


def command(arguments: Sequence[str], imports: tuple[str, ...]) -> int:
    """Train a grid's cells, or resume, and show the results."""
    parser = argparse.ArgumentParser(prog="t2t grid", add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("grid", nargs="?")
    parser.add_argument("--dir")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--list", action="store_true")
    try:
        options, rest = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError as error:
        raise UserError(f"t2t grid: {error}") from None
    if options.grid is None and {"-h", "--help"} & set(rest):
        options.grid = next(iter(GRIDS))
    if options.grid is None or options.grid.startswith("-"):
        raise UserError(
            f"t2t grid: GRID is missing: {', '.join(GRIDS)}, or your own FILE.py:function. Example: t2t grid small --dir DIR"
        )
    grid = _grid(options.grid, rest)
    if options.list:
        _list(grid)
        return DONE
    if options.dir is None:
        raise UserError(f"t2t grid {options.grid}: --dir DIR is missing: it names the grid's directory")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not 1 <= options.workers <= cores:
        raise UserError(
            f"--workers {options.workers}: expected 1 to {cores}, the number of cores. Nearest: {min(max(options.workers, 1), cores)}."
        )
    directory = check_directory(options.dir, "--dir")
    if WORKER in os.environ or options.workers == 1:
        return _work(grid, directory, options.grid)
    return _spread(grid, directory, options.workers)


def _grid(name: str, rest: Sequence[str]) -> Grid:
    prog = f"t2t grid {name}"
    if ":" not in name:
        if name not in GRIDS:
            raise UserError(f"unknown grid {name!r}.{nearest(name, GRIDS)}")
        recipe: Any = GRIDS[name]
    else:
        import_tensorflow()  # a user's grid probably registers tasks
        recipe = function_of(name, option="grid")
    grid = recipe()
    if isinstance(grid, Design):
        about = (
            f"{(recipe.__doc__ or '').strip()}\n\n"
            "--dir DIR (required): the grid's directory. --workers N: train N cells at a time. --list: only list the cells."
        )
        return parse.override(grid, rest, prog=prog, description=about, also=("--dir", "--workers", "--list")).build()
    if not isinstance(grid, Grid):
        raise UserError(f"{prog}: {name.rpartition(':')[2]}() returned {type(grid).__name__}, not a Grid or a Design")
    if rest:
        raise UserError(
            f"{prog}: unknown option {rest[0]}: a Grid has no options; return a Design, such as a Comparison, to have options"
        )
    return grid


def _list(grid: Grid) -> None:
    out = console()
    shown = table(out, "cell", "stage", "trained on", "steps", "after", right=("steps",))
    for cell in grid.cells:
        shown.add_row(
            cell.row, cell.stage, cell.experiment.data.task, f"{cell.experiment.steps:,}", cell.after or "random"
        )
    out.print(shown)
    for note in grid.notes:
        out.print(note)
    out.print(f"\n{len(grid.cells)} cells x {len(grid.seeds)} seeds", style="dim")


def _work(grid: Grid, directory: Path, name: str) -> int:
    """Run in this process, as the only worker or as one of several."""
    place = os.environ.get(WORKER)
    if place is not None and hasattr(os, "sched_setaffinity"):
        number, count = map(int, place.split("/"))
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number * len(cores) // count : (number + 1) * len(cores) // count])

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    register_tasks()
    for task in grid.tasks:
        task.register()
    directory.mkdir(parents=True, exist_ok=True)
    train_vocabulary(grid, directory, log)
    check_same(grid, directory)
    worker = Worker(grid, directory, f"grid:{name}", own_code(), log)
    stopped = worker.run()
    if place is None:
        return _end(grid, directory, stopped, [training.name for training in worker.failures()])
    return STOPPED if stopped else FAILED if worker.failures() else DONE


def _spread(grid: Grid, directory: Path, count: int) -> int:
    """Start worker processes, which share the machine's cores, and show the results when all have ended."""
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
        print("stopped with everything saved; the same command resumes", file=sys.stderr)
        return STOPPED
    if failed:
        print(
            f"failed, or skipped because of a failure: {'; '.join(failed)}; the same command tries again",
            file=sys.stderr,
        )
        return FAILED
    return DONE
