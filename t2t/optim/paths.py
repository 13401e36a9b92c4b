"""Path names of parameters, such as "encoder/layers/mlp/kernel", and glob patterns for them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import jax

from t2t.errors import UserError, nearest
from t2t.nn.model import ParamSpec


def path_name(path: tuple[Any, ...]) -> str:
    """Return the keys of a pytree path, joined by "/"."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def map_specs(function: Callable[[str, ParamSpec], Any], specs: Any) -> Any:
    """Return the tree of function(path, spec)."""
    return jax.tree_util.tree_map_with_path(
        lambda path, spec: function(path_name(path), spec), specs, is_leaf=lambda leaf: isinstance(leaf, ParamSpec)
    )


def flatten_specs(specs: Any) -> dict[str, ParamSpec]:
    """Return a tree of ParamSpec as path -> ParamSpec."""
    flat: dict[str, ParamSpec] = {}
    map_specs(lambda path, spec: flat.__setitem__(path, spec), specs)
    return flat


def select(patterns: Iterable[str], paths: Iterable[str], *, where: str, what: str = "parameter") -> frozenset[str]:
    """Return the paths that match any of the glob patterns.

    "*" matches any characters except "/", "?" matches one of them, "**" matches any characters, and "{a,b}" matches "a" and "b". A pattern that
    names a folder matches everything in it.

    where: the option of the patterns, for the error.
    what:  what the paths name, for the error.
    Raises UserError if a pattern matches no path.
    """
    names = list(paths)
    chosen: set[str] = set()
    for pattern in patterns:
        matched = matching(pattern, names)
        if not matched:
            raise UserError(f"{where}: the pattern {pattern!r} matches no {what}.{nearest(pattern, names)}")
        chosen.update(matched)
    return frozenset(chosen)


def matching(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return the paths that match a glob pattern, see `select`."""
    expression = re.compile(_expression(pattern))
    return [path for path in paths if expression.fullmatch(path)]


def chosen(
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    paths: Iterable[str],
    *,
    where: str,
    name: str = "include",
    what: str = "parameter",
) -> frozenset[str]:
    """Return the paths that match a pattern of `include` and no pattern of `exclude`, see `select`.

    where: the common prefix of the options ("start_from"), for the error.
    name:  name of the option of `include`, for the error.
    Raises UserError if a pattern matches no path.
    """
    names = list(paths)
    return select(include, names, where=f"{where}.{name}", what=what) - select(
        exclude, names, where=f"{where}.exclude", what=what
    )


def _expression(pattern: str) -> str:
    parts = {"**": ".*", "*": "[^/]*", "?": "[^/]"}

    def plain(text: str) -> str:
        return "".join(parts.get(part, re.escape(part)) for part in re.split(r"(\*\*|\*|\?)", text))

    def translate(part: str) -> str:
        if not part.startswith("{"):
            return plain(part)
        return f"(?:{'|'.join(map(plain, part[1:-1].split(',')))})"

    translated = "".join(map(translate, re.split(r"(\{[^{}]*\})", pattern.rstrip("/"))))
    return f"{translated}(/.*)?"
