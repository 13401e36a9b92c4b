"""`t2t profile RUN`: what a run's newest profile says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from t2t.api.profiles import newest, read
from t2t.errors import UserError
from t2t.launch.output import console, table
from t2t.limits import Range
from t2t.paths import LocalPath, check
from t2t.train.run import RECORD, read_record

TOP = 20
"""Rows that are shown."""


def profile(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    top: Annotated[int, Range(1, 100_000)] = TOP,
) -> None:
    """Show where the time of the steps went that `t2t train ... --profile FIRST:LAST` traced: operations by kind and place in the model.

    Shares are of the time from the first operation to the end of the last, in which devices were idle too.

    Args:
        run: the run's directory.
        top: rows to show.

    Raises:
        UserError: no such run, none that was profiled, or a damaged trace.
    """
    if not (check(run, "RUN") / RECORD).is_file():
        read_record(Path(run))  # says what is wrong
    try:
        found = read(Path(run))
    except Exception as error:  # whatever a damaged trace makes of JAX's reader
        raise UserError(f"{newest(Path(run))}: the trace could not be read: {error}") from error
    if found is None:
        raise UserError(f"{run} has no profile; t2t train RECIPE --dir {run} --profile FIRST:LAST traces steps.")
    out = console()
    out.print(
        f"{run}, steps {found.steps[0]:,} to {found.steps[1]:,}: {1000 * found.wall:,.1f} ms a step; "
        + ", ".join(f"{kind} {share:.1%}" for kind, share in [*found.kinds.items(), ("idle", found.idle)])
    )
    shown = table(
        out,
        "place",
        "kind",
        "share",
        "ms a step",
        "runs a step",
        "largest",
        right=("share", "ms a step", "runs a step"),
    )
    for row in found.rows[:top]:
        shown.add_row(
            row.place, row.kind, f"{row.share:.1%}", f"{1000 * row.seconds:,.2f}", f"{row.count:,.0f}", row.largest
        )
    out.print(shown)
    left = found.rows[top:]
    if left:
        out.print(f"and {len(left)} more, {sum(row.share for row in left):.1%}")
    out.print(f"tensorboard --logdir {found.path.parent} shows the trace")
