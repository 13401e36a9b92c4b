"""Start a run from parameters of another run."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax

from t2t.checkpoint.tree import flatten, shape_table
from t2t.errors import UserError, nearest
from t2t.optim.paths import chosen, path_name
from t2t.types import Params


@dataclass(frozen=True, kw_only=True)
class Initialised:
    """Initial parameters, and where each of them comes from.

    params: the nested dict of initial parameters.
    taken:  paths of the parameters from the source.
    fresh:  paths of the parameters that were not replaced.
    unused: paths of the source's parameters that were not taken.
    """

    params: Params
    taken: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def report(self) -> str:
        """Return one line for the log."""
        return (
            f"{len(self.taken)} of {len(self.taken) + len(self.fresh)} parameters from the source"
            f"{_some(', new: ', self.fresh)}{_some(', unused: ', self.unused)}"
        )


def initialise(
    params: Params,
    source: Params,
    include: tuple[str, ...] = ("**",),
    exclude: tuple[str, ...] = (),
    optional: Collection[str] = (),
) -> Initialised:
    """Return `params`, with the parameters that the patterns select replaced by those of `source`, in the dtypes of `params`.

    Both are nested dicts of arrays; those of `params` may be ShapeDtypeStructs. "**" matches across folders, "*" does not, and the name of a folder matches everything in it.

    optional: paths of parameters of the source that are not taken if `params` does not have them.

    Raises UserError if a pattern matches no parameter of the source, or if a selected parameter is missing in `params` or has another shape.
    """
    have = shape_table(source)
    taken = chosen(include, exclude, have, where="initialise")
    if not taken:
        raise UserError(f"initialise.exclude: {', '.join(map(repr, exclude))} excludes all parameters of the source")
    want = shape_table(params)
    taken = taken - {path for path in optional if path not in want}
    if missing := sorted({path.split("/")[0] for path in taken if "/" in path} - {path.split("/")[0] for path in want}):
        raise UserError(
            f"initialise.include: the source's parameters {', '.join(f'{folder}/**' for folder in missing)} are not in this model; exclude them"
            f" (--start-from.exclude {' '.join([*exclude, *missing])})."
        )
    for path in sorted(taken):
        if path not in want:
            raise UserError(
                f"initialise.include: the source's parameter {path} is not in this model; exclude it.{nearest(path, want)}"
            )
        if have[path] != want[path]:
            raise UserError(
                f"initialise.include: parameter {path} is {list(have[path])} in the source but {list(want[path])} here;"
                " exclude it, or use the same vocabulary and sizes"
            )
    values = flatten(source)

    def initial(path: tuple[Any, ...], leaf: Any) -> Any:
        name = path_name(path)
        return values[name].astype(leaf.dtype) if name in taken else leaf

    return Initialised(
        params=jax.tree_util.tree_map_with_path(initial, params),
        taken=tuple(path for path in want if path in taken),
        fresh=tuple(path for path in want if path not in taken),
        unused=tuple(path for path in have if path not in taken),
    )


def _some(text: str, paths: tuple[str, ...]) -> str:
    if not paths:
        return ""
    return text + ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
