"""`t2t profile RUN`: show a run's newest profile."""

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
"""Default number of rows."""


def profile(
    run: Annotated[LocalPath, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    *,
    top: Annotated[int, Range(1, 100_000)] = TOP,
) -> None:
    """Show where the time went in the steps that `t2t train ... --profile FIRST:LAST` traced: operations by kind and place in the model.

    Shares are relative to the time from the start of the first operation to the end of the last one. This includes idle time of the devices.

    Args:
        run: the run's directory.
        top: number of rows to show.

    Raises:
        UserError: the run is not found, has no profile, or the trace is damaged.
    """
    if not (check(run, "RUN") / RECORD).is_file():
        read_record(Path(run))  # raises the error
    try:
        found = read(Path(run))
    except Exception as error:  # JAX's reader can raise any error for a damaged trace
        raise UserError(f"{newest(Path(run))}: the trace cannot be read: {error}") from error
    if found is None:
        raise UserError(f"{run} has no profile; to trace steps: t2t train RECIPE --dir {run} --profile FIRST:LAST.")
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
    out.print(f"To view the trace: tensorboard --logdir {found.path.parent}")
