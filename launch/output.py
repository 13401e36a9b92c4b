"""Results on standard output: for a person on a terminal, whole and plain for a file or a pipe."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment
from rich.table import Table

from t2t.launch.escapes import visible

UNLIMITED = 100_000
"""Columns of a file: none of its lines is folded or cut."""


class Visible(RenderHook):
    """Makes all text that a console shows `visible`; its own colours and movements stay."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Return them, wrapped."""
        return [_Visible(renderable) for renderable in renderables]


class _Visible:
    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def console() -> Console:
    """Return a console on standard output. A file or pipe gets no colour and no line breaks that are not in the text; a terminal no control character of it."""
    terminal = Console(highlight=False, emoji=False, markup=False)
    if terminal.is_terminal:
        terminal.push_render_hook(Visible())
        return terminal
    return Console(file=sys.stdout, highlight=False, emoji=False, markup=False, width=UNLIMITED, color_system=None)


def has_colour(out: Console) -> bool:
    """Whether colours reach whoever reads: not in a file, not with NO_COLOR."""
    return out.color_system is not None and not out.no_color


def table(out: Console, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table with those columns; `right` are set to the right."""
    made = Table(
        box=box.SIMPLE_HEAD if out.is_terminal else None,
        padding=(0, 1, 0, 0) if out.is_terminal else (0, 2, 0, 0),
        pad_edge=False,
        header_style="bold",
        show_edge=False,
    )
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def matching(names: list[str], filter: str) -> list[str]:
    """Return the names that have `filter` in them, whatever the case."""
    return [name for name in names if filter.lower() in name.lower()]
