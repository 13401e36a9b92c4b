"""`t2t models`: list the presets, or the parameters of one. No arrays are created, so this also works for 175 billion parameters."""

from __future__ import annotations

import re
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from t2t.api.progress import large
from t2t.errors import UserError, nearest
from t2t.launch.output import console, matching, table

WIDE = 116
"""Minimum width of the terminal for the columns heads, mlp, vocabulary and length."""


def models(
    name: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = None, *, filter: str = ""
) -> None:
    """List the model presets, or show a preset's parameters.

    Args:
        name: name of a preset, for example "t5:1.1-small". Default: list all presets.
        filter: list only the presets whose name contains this text.

    Raises:
        UserError: the preset is unknown, or no preset matches.
    """
    out = console()
    if name is None:
        _list(out, filter)
    else:
        _parameters(out, name)


def _list(out: Console, filter: str) -> None:
    from t2t.models import count, presets

    known = presets()
    names = matching(list(known), filter)
    if not names:
        raise UserError(f"no preset's name contains {filter!r} (--filter).{nearest(filter, known)}")
    wide = out.width >= WIDE
    columns = ("name", "kind", "parameters", "published", "layers", "width")
    more = ("heads", "mlp", "vocabulary", "length") if wide else ()
    rows = table(out, *columns, *more, right=(*columns[2:], *more))
    notes: dict[str, None] = {}
    for name in names:
        preset = known[name]
        config = preset.config()
        first = config.stacks[0]
        published = f"{preset.published:,}" if preset.rounding == 1 else f"~{_round(preset.published)}"
        cells = [
            name,
            config.kind.replace("_", "-"),
            f"{count(config):,}",
            published + "*" * bool(preset.besides),
            "+".join(str(stack.num_layers) for stack in config.stacks),
            f"{first.d_model:,}",
        ]
        if wide:
            length = "any" if config.max_length is None else f"{config.max_length:,}"
            cells += [str(first.num_heads), f"{first.d_ff:,}", f"{config.vocab_size:,}", length]
        rows.add_row(*cells)
        notes |= dict.fromkeys(preset.besides)
    out.print(rows)
    if notes:
        out.print(f"\n* The published number differs by: {'; '.join(notes)}.", style="dim")
    out.print("\nt2t models NAME shows a preset's parameters.", style="dim")


def _parameters(out: Console, name: str) -> None:
    from t2t.models import active_count, parameter_table, preset, presets

    config = preset(name)
    found = presets()[name]
    parameters = parameter_table(config)
    rows = table(out, "parameter", "shape", "logical axes", "decay", "count", right=("count",))
    group = ""
    for row in parameters:
        path = row.path
        if out.is_terminal:  # full paths are for grep; on a screen they are too long
            parent = path.rsplit("/", 2)[0] if path.count("/") > 2 else path.split("/")[0]
            if parent != group:
                rows.add_row(Text(group := parent, style="bold"))
            path = "  " + path.removeprefix(parent + "/")
        shape = "x".join(map(str, row.shape)) or "scalar"
        rows.add_row(
            path, shape, ",".join(axis or "-" for axis in row.axes), "yes" if row.decay else "no", f"{row.count:,}"
        )
    out.print(rows)
    total = sum(row.count for row in parameters)
    decayed = sum(row.count for row in parameters if row.decay)
    out.print()
    out.print(
        f"{total:,} parameters in {len(parameters)} arrays, {decayed:,} with weight decay; {_gigabytes(4 * total)} in float32.",
        style="bold",
    )
    if (active := active_count(config)) < total:
        published = "" if found.active is None else f" (published: about {_round(found.active)})"
        out.print(
            f"{active:,} of them process each token{published}; the others belong to experts that it does not choose."
        )
    about = "" if found.rounding == 1 else f", rounded to {_round(found.rounding)}"
    out.print(f"Published: {found.published:,}{about} ({found.source.rstrip('.')}).")
    for why, difference in found.besides.items():
        out.print(f"  {difference:+,}: {why}")
    if not found.agrees(total):
        out.print(
            f"This differs from the published number by {total - found.published - sum(found.besides.values()):+,}.",
            style="bold red",
        )


def _round(value: int) -> str:
    return re.sub(r"\.?0+(?=[kMBT])", "", large(value)) if "." in large(value) else large(value)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
