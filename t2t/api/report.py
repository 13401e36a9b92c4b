"""Write RUN/report.html: a self-contained page about a run."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any

from t2t.api import profiles
from t2t.api.curves import COLOURS, Plot, svg
from t2t.api.escapes import visible
from t2t.api.progress import GENERAL, duration, headline, large, number
from t2t.api.run_files import Predictions, RunFiles, Series, read_run
from t2t.train import ledger
from t2t.train.ledger import Account

FILE = "report.html"
CURVES = {
    "loss": "Loss",
    "accuracy": "Token accuracy",
    "learning_rate": "Learning rate",
    "grad_norm": "Gradient norm",
    "tokens_per_second": "Tokens per second",
    "data_wait": "Share of time waiting for data",
}
"""Training metric -> its title, in the order of the page."""
EVALUATION_METRICS = {"loss": "loss", "accuracy": "token_accuracy"}
"""Training metric -> the evaluation metric in the same plot."""
LOG_SCALE = ("loss", "grad_norm", "perplexity")
"""Metrics with a logarithmic axis. The axes of the other metrics start at 0."""
TIMES = {
    "train": "computing steps",
    "data": "waiting for data",
    "import": "importing libraries",
    "start": "starting",
    "open": "opening the data",
    "compile": "compiling",
    "restore": "restoring",
    "eval": "evaluating",
    "save": "saving",
    "profile": "writing a profile",
    "lost": "repeated steps after a failure",
    "down": "between two starts",
}
"""Kind of time in the ledger -> its title, in the order of the page."""
MAX_EVALUATIONS = 12
"""Maximum number of rows of an evaluation table."""
MAX_OPERATIONS = 12
"""Maximum number of rows of the profile's table."""
MAX_TEXT = 600
"""Maximum number of characters shown of a sample text."""


def write_report(run_dir: str | Path) -> Path:
    """Write RUN/report.html from the run's files and return its path.

    Reads run.json, metrics.jsonl, machine.json, eval/STEP.json, eval/STEP/TASK.jsonl and the newest trace in profile/. The page names missing or
    broken files and shows the rest. It loads nothing from the network or from disk.

    Raises:
        UserError: the directory does not exist.
    """
    run = read_run(run_dir)
    path = run.directory / FILE
    temporary = path.with_name(f".{FILE}.{os.getpid()}")
    temporary.write_text(render(run), encoding="utf-8", errors="backslashreplace")
    os.replace(temporary, path)
    return path


def render(run: RunFiles) -> str:
    """Return the page of a run."""
    import jinja2
    from markupsafe import Markup

    def plain(value: object) -> object:
        return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=plain
    )
    template = environment.from_string(resources.files("t2t.api").joinpath(FILE).read_text(encoding="utf-8"))
    time = ledger.read(run.directory)
    profile = _profile(run)
    plots = [{"title": plot.name, "note": _remark(plot), "svg": Markup(svg(plot))} for plot in plots_of(run)]
    return template.render(
        title=_title(run),
        sentence=sentence(run),
        notes=run.notes,
        tiles=_tiles(run, time),
        plots=plots,
        evaluations=[_table(task, steps, run.evaluated.get(task, "")) for task, steps in run.evaluations.items()],
        samples=[_samples(predictions, run.directory) for predictions in run.predictions],
        times=_times(time),
        profile=profile,
        goodput=f"{time.goodput:.1%}",
        starts=time.processes,
        config=_tree(run.config, depth=0) if run.config else None,
        machine=[(name, _plain(value)) for name, value in run.machine.items()],
        footer=f"Created from the files of {run.directory.resolve().name}/ on {datetime.now().astimezone():%Y-%m-%d %H:%M %Z}.",
    )


def sentence(run: RunFiles) -> str:
    """Return one or two sentences about the training: what, how long, and with what result."""
    experiment = _dict(run.config.get("experiment", run.config))
    model, data = _dict(experiment.get("model")), _dict(experiment.get("data"))
    name = str(model.get("class", "")).rpartition(".")[2].removesuffix("Config")
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
    start = f"An {kind}" if kind[:1] in ("a", "e", "i", "o", "u") else f"A {kind}" if kind else "A model"
    of = _size(run.machine)
    on = f" on {data['task']}" if data.get("task") else ""
    if not run.log:
        return f"{start}{of}{on}; no step has been logged yet."
    last, planned = run.log[-1]["step"], experiment.get("steps")
    steps = f"{last:,} of {planned:,} steps" if isinstance(planned, int) and planned != last else f"{last:,} steps"
    found = run.machine.get("devices")
    kinds = [_dict(device) for device in found] if isinstance(found, list) else []
    devices = ", ".join(f"{device.get('count', 1)} {device['kind']}" for device in kinds if device.get("kind"))
    text = f"{start}{of} trained{on} for {steps}"
    total = ledger.read(run.directory).total
    text += (f" in {duration(total)}" if total else "") + (f" on {devices}" if devices else "") + "."
    results = _final(run)
    if results:
        text += " At the end: " + ", ".join(results) + "."
    return text


def _size(machine: dict[str, Any]) -> str:
    count, trainable = machine.get("parameters"), machine.get("trainable_parameters")
    if not isinstance(count, int):
        return ""
    if isinstance(trainable, int) and trainable < count:
        return f" of {large(count)} parameters ({large(trainable)} of them trainable)"
    return f" of {large(count)} parameters"


def plots_of(run: RunFiles) -> list[Plot]:
    """Return the plots of the page: one for each training metric, then one for each evaluation metric. The loss has both in one plot."""
    by_metric: dict[str, dict[str, Series]] = {}
    for task, steps in run.evaluations.items():
        if "@" in task:  # other splits are usually evaluated once; the tables show them
            continue
        for step, values in steps.items():
            for name, value in values.items():
                by_metric.setdefault(name, {}).setdefault(task, []).append((step, value))
    plots = []
    for name in [*(name for name in CURVES if name in run.series), *sorted(set(run.series) - set(CURVES))]:
        if name in ("step_seconds", "goodput"):
            continue  # tokens per second and the table of times show the same
        if name in ("skipped", "rewinds") and not any(value for _, value in run.series[name]):
            continue
        title = CURVES.get(name, name.replace("_", " ").capitalize())
        lines = {"training": run.series[name]}
        if name in EVALUATION_METRICS:
            lines |= {f"eval {task}": series for task, series in by_metric.pop(EVALUATION_METRICS[name], {}).items()}
        plots.append(Plot(name=title, lines=lines, log=name in LOG_SCALE, zero=name not in LOG_SCALE))
    for name in ("perplexity", "unigram_loss"):  # a function of the loss, and a constant; the tables show them
        by_metric.pop(name, None)
    for name, lines in sorted(by_metric.items()):
        plots.append(Plot(name=f"Evaluation: {name}", lines=lines, log=name in LOG_SCALE, zero=name not in LOG_SCALE))
    return plots


def _remark(plot: Plot) -> str:
    """Return a note for a plot's caption: the task of its only line, and values that cannot be drawn."""
    remarks = [name for name in plot.lines if len(plot.lines) == 1 and name != "training"]
    bad = [(step, name) for name, series in plot.lines.items() for step, value in series if not math.isfinite(value)]
    if bad:
        step, name = min(bad)
        remarks.append(
            f"{len(bad)} {'value' if len(bad) == 1 else 'values'} not finite, the first at step {step:,} ({name})"
        )
    return "; ".join(remarks)


def _final(run: RunFiles) -> list[str]:
    results = [f"training loss {number(run.series['loss'][-1][1])}"] if run.series.get("loss") else []
    return results + [f"{task} {name.replace('_', ' ')} {value}" for task, name, value in _headlines(run)]


def _headlines(run: RunFiles) -> list[tuple[str, str, str]]:
    """Return (task, metric, value) for the newest evaluations of up to six tasks."""
    newest = [(task, steps[max(steps)]) for task, steps in list(run.evaluations.items())[:6]]
    named = [(task, headline(values), values) for task, values in newest if values]
    return [(task, name, number(values[name])) for task, name, values in named]


def _title(run: RunFiles) -> str:
    name, recipe = run.directory.resolve().name, run.config.get("recipe")
    return f"{name}: {recipe}" if recipe else name


def _tiles(run: RunFiles, time: Account) -> list[tuple[str, str]]:
    tiles = []
    if run.log:
        tiles.append((f"{run.log[-1]['step']:,}", "steps"))
    if run.series.get("loss"):
        tiles.append((number(run.series["loss"][-1][1]), "training loss, last"))
    rates = [value for _, value in run.series.get("tokens_per_second", []) if math.isfinite(value)]
    if rates:
        tiles.append((large(sorted(rates)[len(rates) // 2]), "tokens/s, median"))
    if time.total:
        tiles.append((duration(time.total), "total time with starts and evaluations"))
        tiles.append((f"{time.goodput:.0%}", "goodput"))
    return tiles + [(value, f"{task} {name}") for task, name, value in _headlines(run)]


def _table(task: str, steps: dict[int, dict[str, float]], about: str) -> dict[str, Any]:
    found = dict.fromkeys(name for values in steps.values() for name in values)
    names = sorted(found, key=lambda name: name in GENERAL)  # task-specific metrics first
    shown = sorted(steps)
    if len(shown) > MAX_EVALUATIONS:  # evenly spaced, with the first and the last
        shown = [shown[round(at * (len(shown) - 1) / (MAX_EVALUATIONS - 1))] for at in range(MAX_EVALUATIONS)]
    rows = [
        [f"{step:,}", *(number(steps[step][name]) if name in steps[step] else "" for name in names)] for step in shown
    ]
    return {"task": task, "about": about, "metrics": names, "rows": rows, "left_out": len(steps) - len(shown)}


def _samples(predictions: Predictions, directory: Path) -> dict[str, Any]:
    rows = []
    for row in predictions.rows:
        target, prediction = row.get("targets"), row.get("prediction")
        right, mark = row.get("correct"), ""
        if isinstance(right, bool):
            mark = "✓ right" if right else "✗ wrong"
        elif target is not None and prediction is not None:  # an answer that differs may still be correct
            right = _plain(target).strip() == _plain(prediction).strip()
            mark = "= same" if right else "≠ differs"
        rows.append(
            {
                "right": right,
                "mark": mark,
                "inputs": _cut(_plain(row.get("inputs"))),
                "targets": marked(_cut(_plain(prediction)), _cut(_plain(target))),
                "prediction": marked(_cut(_plain(target)), _cut(_plain(prediction))),
            }
        )
    file = predictions.path.relative_to(directory).as_posix()
    return {"task": predictions.task, "step": predictions.step, "total": predictions.total, "file": file, "rows": rows}


def marked(other: str, text: str) -> list[tuple[bool, str]]:
    """Divide a text into (differs, piece) pairs: a word-by-word diff with the other text."""
    left, right = (re.findall(r"\s+|\w+|[^\w\s]", side) for side in (other, text))
    operations = difflib.SequenceMatcher(None, left, right, autojunk=False).get_opcodes()
    return [(kind != "equal", "".join(right[start:end])) for kind, _, _, start, end in operations if end > start]


def _times(time: Account) -> list[dict[str, Any]]:
    parts = {title: time.seconds.get(kind, 0.0) for kind, title in TIMES.items()}
    always = ("train", "data", "start")  # the others only if they took time
    return [
        {
            "name": name,
            "duration": duration(seconds),
            "share": f"{seconds / time.total:.1%}",
            "percent": f"{100 * seconds / time.total:.3f}",
            "colour": COLOURS[index % len(COLOURS)],
        }
        for index, (name, seconds) in enumerate(parts.items())
        if time.total > 0 and (seconds > 0 or name in [TIMES[kind] for kind in always])
    ]


def _profile(run: RunFiles) -> dict[str, Any] | None:
    try:
        found = profiles.read(run.directory)
    except Exception as error:  # JAX's reader may fail in any way on a damaged trace
        run.notes.append(f"the profile could not be read: {error}")
        return None
    if found is None:
        return None
    kinds = [*found.kinds.items(), ("idle", found.idle)]
    left = found.rows[MAX_OPERATIONS:]
    return {
        "about": f"steps {found.steps[0]:,} to {found.steps[1]:,}, {1000 * found.wall:,.1f} ms each: "
        + ", ".join(f"{kind} {share:.1%}" for kind, share in kinds),
        "rows": [
            [row.place, row.kind, f"{row.share:.1%}", f"{1000 * row.seconds:,.2f}", f"{row.count:,.0f}", row.largest]
            for row in found.rows[:MAX_OPERATIONS]
        ],
        "left": f"and {len(left)} more, {sum(row.share for row in left):.1%}" if left else "",
        "path": found.path.relative_to(run.directory).as_posix(),
    }


def _tree(value: dict[str, Any], *, depth: int) -> dict[str, Any]:
    items = {name: item for name, item in value.items() if name != "class"}
    nested = {name: item for name, item in items.items() if isinstance(item, dict) and item}
    return {
        "kind": str(value.get("class", "")).rpartition(".")[2],
        "open": depth == 1,
        "leaves": [(name, _plain(item)) for name, item in items.items() if name not in nested],
        "children": [(name, _tree(item, depth=depth + 1)) for name, item in nested.items()],
    }


def _plain(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters)"


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
