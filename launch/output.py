"""Results on standard output: formatted for a terminal; plain and never cut off for a file or a pipe."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Table

from t2t.api.escaped_console import Visible

UNLIMITED = 100_000
"""Width of a file in columns: so wide that no line is wrapped or cut."""


class Output(Console):
    """A console that leaves a closed pipe to the caller; rich would end the process with code 1."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that rich has caught."""
        raise  # rich calls this while it handles the error


def console() -> Console:
    """Return a console on standard output. A file or pipe gets no colours and no added line breaks. A terminal gets no control characters from the text."""
    terminal = Output(highlight=False, emoji=False, markup=False)
    if terminal.is_terminal:
        terminal.push_render_hook(Visible())
        return terminal
    return Output(file=sys.stdout, highlight=False, emoji=False, markup=False, width=UNLIMITED, color_system=None)


def has_colour(out: Console) -> bool:
    """Return whether colours are shown: not in a file, not with NO_COLOR."""
    return out.color_system is not None and not out.no_color


def table(out: Console, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table with these columns. The columns in `right` are right-aligned."""
    empty = Table(
        box=box.SIMPLE_HEAD if out.is_terminal else None,
        padding=(0, 1, 0, 0) if out.is_terminal else (0, 2, 0, 0),
        pad_edge=False,
        header_style="bold",
        show_edge=False,
    )
    for name in columns:
        empty.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return empty


def matching(names: list[str], filter: str) -> list[str]:
    """Return the names that contain `filter`, ignoring case."""
    return [name for name in names if filter.lower() in name.lower()]
