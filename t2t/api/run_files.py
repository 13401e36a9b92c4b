"""Read the files of a run directory leniently: note missing or broken files and use the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.json_files import NotJson, json_value, read_json
from t2t.train import metric_log

Series = list[tuple[int, float]]
"""(step, value) pairs in ascending order of steps."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """The predictions of a task at its newest evaluation.

    rows:  the first rows of the file.
    total: number of rows in the file.
    """

    task: str
    step: int
    path: Path
    rows: list[dict[str, Any]]
    total: int


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """Contents of a run directory's files.

    config:      run.json, or {}.
    machine:     machine.json, or {}.
    log:         the lines of metrics.jsonl.
    series:      training metric -> its values over the steps.
    evaluations: task -> step -> metric -> value.
    evaluated:   task -> split and number of examples of its newest evaluation.
    notes:       one line for each file that is missing or broken.
    """

    directory: Path
    config: dict[str, Any]
    machine: dict[str, Any]
    log: list[dict[str, Any]]
    series: dict[str, Series]
    evaluations: dict[str, dict[int, dict[str, float]]]
    evaluated: dict[str, str]
    predictions: list[Predictions]
    notes: list[str] = field(default_factory=list)


def read_run(directory: str | Path, *, rows: int = 8) -> RunFiles:
    """Read the files for a report, with the first `rows` predictions of each task.

    Raises:
        UserError: the directory does not exist.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"no run directory {directory}")
    notes: list[str] = []
    config = _object(directory / "run.json", notes)
    machine = _object(directory / "machine.json", notes)
    log = _log(directory, notes)
    series: dict[str, dict[int, float]] = {}
    evaluations: dict[str, dict[int, dict[str, float]]] = {}
    evaluated: dict[str, str] = {}
    for line in log:
        values = {name: value for name, value in line.items() if name not in metric_log.RESERVED and _is_number(value)}
        for name, value in values.items():
            if not name.startswith("eval/"):
                series.setdefault(name, {})[line["step"]] = value
        _add_evaluation(
            evaluations, line["step"], {name: value for name, value in values.items() if name.startswith("eval/")}
        )
    for step, path in _steps(directory / "eval", ".json"):
        _read_evaluation(path, step, evaluations, evaluated, notes)
    return RunFiles(
        directory=directory,
        config=config,
        machine=machine,
        log=log,
        series={name: sorted(values.items()) for name, values in series.items()},
        evaluations={task: dict(sorted(steps.items())) for task, steps in sorted(evaluations.items())},
        evaluated=evaluated,
        predictions=_predictions(directory / "eval", rows, notes),
        notes=notes,
    )


def by_task(results: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Group "eval/TASK/METRIC" by task. The metric is the part after the last slash."""
    tasks: dict[str, dict[str, float]] = {}
    for name, value in results.items():
        task, _, metric = name.removeprefix("eval/").rpartition("/")
        tasks.setdefault(task or "all", {})[metric] = float(value)
    return tasks


def _object(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:
        notes.append(f"{path.name} is missing")
        return {}
    except (OSError, UserError) as error:
        notes.append(f"{path.name} could not be read: {error}")
        return {}


def _log(directory: Path, notes: list[str]) -> list[dict[str, Any]]:
    if not (directory / metric_log.FILE).exists():
        notes.append(f"{metric_log.FILE} is missing")
        return []
    try:
        return metric_log.read(directory)
    except (OSError, UserError) as error:
        notes.append(f"{metric_log.FILE} could not be read: {error}")
        return []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _add_evaluation(evaluations: dict[str, dict[int, dict[str, float]]], step: int, values: dict[str, float]) -> None:
    for task, found in by_task(values).items():
        evaluations.setdefault(task, {}).setdefault(step, {}).update(found)


def _read_evaluation(
    path: Path,
    step: int,
    evaluations: dict[str, dict[int, dict[str, float]]],
    evaluated: dict[str, str],
    notes: list[str],
) -> None:
    """Add the results in RUN/eval/STEP.json: `{"tasks": {TASK: {"split", "examples", "trimmed", "metrics": {NAME: value}}}}`."""
    content = _object(path, notes)
    tasks = content.get("tasks", {})
    if content and not isinstance(tasks, dict):
        notes.append(f"eval/{path.name} could not be read: its tasks are not a JSON object")
        return
    for task, result in tasks.items():
        found = result.get("metrics") if isinstance(result, dict) else None
        if not isinstance(found, dict):
            notes.append(f"eval/{path.name}: task {task} has no metrics")
            continue
        values = {name: metric_log.as_number(value) for name, value in found.items()}
        kept = {name: value for name, value in values.items() if _is_number(value)}
        evaluations.setdefault(task, {}).setdefault(step, {}).update(kept)
        examples, trimmed = result.get("examples"), result.get("trimmed")
        if isinstance(examples, int):
            cut = f", {trimmed:,} of them trimmed to fit" if isinstance(trimmed, int) and trimmed else ""
            evaluated[task] = f"{examples:,} examples of {result.get('split', 'the split')}{cut}"


def _steps(directory: Path, suffix: str) -> list[tuple[int, Path]]:
    """Return (step, path) for the entries STEP+suffix of a directory, in ascending order of steps."""
    if not directory.is_dir():
        return []
    found = [(path.name.removesuffix(suffix), path) for path in directory.iterdir() if path.name.endswith(suffix)]
    return sorted((int(name), path) for name, path in found if name.isdecimal())


def _predictions(directory: Path, rows: int, notes: list[str]) -> list[Predictions]:
    newest: dict[str, tuple[int, Path]] = {}
    for step, folder in _steps(directory, ""):
        if folder.is_dir():
            for path in folder.rglob("*.jsonl"):
                newest[path.relative_to(folder).with_suffix("").as_posix()] = (step, path)
    found = []
    for task, (step, path) in sorted(newest.items()):
        kept, total, broken = _first_rows(path, rows)
        if broken:
            notes.append(f"eval/{step}/{path.name}: {broken} of the first lines could not be read")
        if total:
            found.append(Predictions(task=task, step=step, path=path, rows=kept, total=total))
    return found


def _first_rows(path: Path, rows: int) -> tuple[list[dict[str, Any]], int, int]:
    kept: list[dict[str, Any]] = []
    total = broken = 0
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            total += 1
            if len(kept) >= rows:
                continue
            try:
                row = json_value(line)
            except NotJson:
                row = None
            if isinstance(row, dict):
                kept.append(row)
            else:
                broken += 1
    return kept, total - broken, broken
