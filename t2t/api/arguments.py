"""Checks of the arguments of `Run`'s methods."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from t2t.errors import UserError
from t2t.limits import OutOfLimits, check_arguments

P = ParamSpec("P")
T = TypeVar("T")


def checked(method: Callable[P, T]) -> Callable[P, T]:
    """Check arguments against the limits in their type hints. An error names the method and the argument."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            check_arguments(method, signature.bind(*args, **kwargs).arguments)
        except OutOfLimits as error:
            raise error.at(f"Run.{method.__name__}") from None
        return method(*args, **kwargs)

    return call


def rows_of(texts: Sequence[str], name: str = "texts", *, second: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return a row for each text, with "inputs" and optionally "second". Raises UserError if an argument is not a list of texts."""
    for argument, values in ((name, texts), ("second", second or [])):
        if isinstance(values, str | bytes):
            raise UserError(f"{argument} is one text. Nearest: a list of texts, [{values!r:.40}].")
        for i, text in enumerate(values):
            if not isinstance(text, str):
                raise UserError(f"{argument}[{i}] is {type(text).__name__}, not text.")
    if second is None:
        return [{"inputs": text} for text in texts]
    if len(second) != len(texts):
        raise UserError(f"{len(texts)} {name} and {len(second)} second texts: the numbers must be equal.")
    return [{"inputs": one, "second": other} for one, other in zip(texts, second, strict=True)]
