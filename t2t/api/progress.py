"""Show the progress of a training on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from t2t.api.escaped_console import Visible

GENERAL = ("loss", "unigram_loss", "perplexity", "token_accuracy", "bits_per_byte")
"""Metrics that every task has. Other metrics are specific to a task."""


class Evaluated(Protocol):
    """Evaluation result to show: the task's name, and its metrics by name."""

    @property
    def task(self) -> str:
        """The task's name."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metric -> value."""


class Progress:
    """Observer of the train loop that shows the progress (`on_start`, `on_log`, `on_eval`, `on_message`, `on_end`).

    On a terminal, a bar stays at the bottom, and evaluations and messages scroll above it. Elsewhere (a log file, CI), the same numbers
    are printed as plain lines: the first, the last, and at most one every `every` seconds in between.

    Args:
        total: the last step. `on_start` can set it later.
        start: the step from which the run resumes. `on_start` can set it later.
        console: the console to write to. The default is standard error.
        every: minimum number of seconds between plain lines.
        clock: function that returns the time in seconds, for tests.
    """

    def __init__(
        self,
        total: int = 0,
        start: int = 0,
        *,
        console: Console | None = None,
        every: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or _console()
        self._console.push_render_hook(Visible())
        self._every = every
        self._clock = clock
        self._live: Live | None = None
        self._open = False
        self._reset(total, start)

    def _reset(self, total: int, start: int) -> None:
        self._total, self._step = total, start
        self._metrics: dict[str, float] = {}
        self._evaluation = ""
        self._began = self._clock()
        self._first: tuple[int, float] | None = None
        self._printed: float | None = None
        self._unprinted = False

    # Callbacks of the train loop.

    def on_start(self, total: int, start: int) -> None:
        """Start to show a run of `total` steps from step `start`."""
        self._reset(total, start)
        if self._open:
            return
        self._open = True
        if self._console.is_terminal:
            # Do not redirect stdout if it is a file or a pipe, because results go there.
            redirect = sys.stdout.isatty()
            self._live = Live(
                get_renderable=lambda: _View(self),
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=redirect,
                transient=False,
            )
            self._live.start()

    def on_log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show the numbers of a step."""
        now = self._clock()
        self._step = step
        self._metrics = {name: float(value) for name, value in metrics.items()}
        if self._first is None:
            self._first = (step, now)
        if self._live is None:
            self._unprinted = True
            if self._printed is None or now - self._printed >= self._every or step >= self._total:
                self._print_line(now)

    def on_eval(self, step: int, results: Iterable[Evaluated]) -> None:
        """Show an evaluation: all tasks with their metrics."""
        tasks = {result.task: result.metrics for result in results if result.metrics}
        self._evaluation = "  ".join(
            f"{task} {name} {number(values[name])}" for task, values in tasks.items() for name in [headline(values)]
        )
        self._flush_line()
        width = max((len(task) for task in tasks), default=0)
        for task, values in tasks.items():
            shown = "  ".join(f"{name} {number(value)}" for name, value in values.items())
            self._print(Text.assemble((f"eval at step {step:,}  ", "dim"), (f"{task:{width}}", "bold"), f"  {shown}"))

    def on_message(self, text: str) -> None:
        """Show a line of text above the bar."""
        self._flush_line()
        self._print(Text(text))

    def on_end(self) -> None:
        """Print the last numbers and stop the bar. It is safe to call this twice."""
        self._flush_line()
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._open = False

    # For use in a `with` statement.

    def __enter__(self) -> Progress:
        self.on_start(self._total, self._step)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.on_end()

    # Displayed values.

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the last step, including evaluations and saves; None if unknown.

        The estimate uses the average speed since the first logged step, so it excludes the compilation. Until the second logged step,
        it uses the metric `step_seconds`.
        """
        left = max(self._total - self._step, 0)
        if self._first is not None and self._step > self._first[0]:
            step, then = self._first
            return left * (self._clock() - then) / (self._step - step)
        seconds = self._metrics.get("step_seconds")
        return None if seconds is None or not math.isfinite(seconds) else left * seconds

    def numbers(self) -> list[tuple[str, str]]:
        """The names and values to show with the bar, from the last logged metrics. The most important come first."""
        shown = []
        for name, label, form in (
            ("loss", "loss", number),
            ("accuracy", "accuracy", number),
            ("tokens_per_second", "tokens/s", large),
            ("data_wait", "waiting for data", share),
            ("learning_rate", "learning rate", number),
        ):
            if name in self._metrics:
                shown.append((label, form(self._metrics[name])))
        return shown

    def _print_line(self, now: float) -> None:
        self._printed, self._unprinted = now, False
        of = self._step / self._total if self._total else 1.0
        left = self.seconds_left
        fields = [
            f"step {self._step:,}/{self._total:,} ({of:.0%})",
            *(f"{name} {value}" for name, value in self.numbers()),
        ]
        if self._step >= self._total:
            fields.append(f"took {duration(now - self._began)}")
        elif left is not None:
            fields.append(f"ETA {duration(left)}")
        self._print(Text("  ".join(fields)))

    def _flush_line(self) -> None:
        """Print the last logged step if it was not printed yet, so that lines stay in order."""
        if self._live is None and self._unprinted:
            self._print_line(self._clock())

    def _print(self, text: Text) -> None:
        if self._console.is_terminal:
            self._console.print(text)
        else:
            self._console.print(text, soft_wrap=True)  # do not wrap lines in a log file


def _console() -> Console:
    """Return a console on standard error. In a notebook, which rich treats as a terminal, it writes plain lines."""
    console = Console(stderr=True, highlight=False)
    if not console.is_jupyter:
        return console
    return Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=False)


class _View:
    """The bar and the numbers below it, in the current width of the terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        progress = self._progress
        total, step = progress._total, progress._step
        left = progress.seconds_left
        if progress._first is None:
            eta = "starting"
        elif step >= total:
            eta = f"took {duration(progress._clock() - progress._began)}"
        else:
            eta = "" if left is None else f"ETA {duration(left)}"
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        of = step / total if total else 0.0
        bar = ProgressBar(total=total or 1, completed=step, pulse=progress._first is None)
        if total:
            grid.add_row(Text(f"step {step:,}/{total:,}", style="bold"), bar, f"{of:.0%}", Text(eta, style="cyan"))
        else:  # the number of steps is not known yet
            grid.add_row(Text("starting", style="bold"), bar, "", "")
        yield grid
        line = Text(no_wrap=True)
        for name, value in progress.numbers():
            field = Text.assemble("   " if line else "", (f"{name} ", "dim"), value)
            if line.cell_len + field.cell_len <= options.max_width:
                line.append_text(field)
        if line:
            yield line
        if progress._evaluation:
            yield Text.assemble(("eval ", "dim"), progress._evaluation, no_wrap=True, overflow="ellipsis")


def headline(values: Mapping[str, float]) -> str:
    """Return the name of the most important metric: the first task-specific one, else the loss, else the first."""
    specific = (name for name in values if name not in GENERAL)
    return next(specific, "loss" if "loss" in values else next(iter(values)))


def number(value: float) -> str:
    """Format a number with three or four significant digits."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return large(value)
    if abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:.{3 - max(0, math.floor(math.log10(abs(value))))}f}"


def large(value: float) -> str:
    """Format a count or a rate: 950, 12.3k, 4.56M, 174.60B."""
    if not math.isfinite(value):
        return str(value)
    for size, letter, digits in ((1e12, "T", 2), (1e9, "B", 2), (1e6, "M", 2), (1e3, "k", 1)):
        if abs(value) >= size:
            return f"{value / size:.{digits}f}{letter}"
    return f"{value:.0f}"


def share(value: float) -> str:
    """Format a fraction as a percentage."""
    return f"{value:.0%}" if math.isfinite(value) else str(value)


def duration(seconds: float) -> str:
    """Format seconds as 12s, 3:07 (minutes), 1:02:03 (hours), or 2d 03h."""
    whole = max(0, math.ceil(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
    return f"{whole // 86400}d {whole // 3600 % 24:02}h"
