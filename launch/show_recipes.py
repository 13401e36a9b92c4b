"""`t2t recipes`: list the recipes for train."""

from __future__ import annotations

from rich.table import Table

from t2t.api.recipes import recipes as all_recipes
from t2t.launch.output import console


def recipes(filter: str = "", /) -> None:
    """List the recipes: name, model, task, batch size, steps.

    Args:
        filter: list only the recipes whose name contains this text.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("recipe", "model", "task", "batch", "steps"):
        table.add_column(column, justify="right" if column in ("batch", "steps") else "left", no_wrap=True)
    for name, recipe in all_recipes().items():
        if filter.lower() in name.lower():
            it = recipe()
            table.add_row(
                name, it.model.kind.replace("_", "-"), it.data.task, f"{it.data.batch_size:,}", f"{it.steps:,}"
            )
    out = console()
    out.print(table)
    out.print(
        "\nYour own: module:function or file.py:function that returns a t2t.train.experiment.Experiment.", style="dim"
    )
