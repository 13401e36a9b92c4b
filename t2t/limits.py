"""Limits of values: declared where a field or an option is declared, and checked in one way.

A field's type carries its limit: `batch_size: Rows = 64`, where `Rows = Annotated[int, Range(1, 2**20)]`. Every configuration class is a
`Configuration`, which checks its fields when it is made: in Python, from a run.json, or from the command line. `check_arguments` does the same for
the parameters of a function. NaN and infinity are in no range. The largest values are above all that fits in the memory of today's machines, so that a
mistake (a length of 1e9) is refused at once and not by the allocator.
"""

from __future__ import annotations

import abc
import functools
import math
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Protocol, runtime_checkable

from t2t import former_names
from t2t.errors import UserError

_SHOWN = 60
"""Characters of a wrong value that are shown."""


class OutOfLimits(UserError):
    """A value that its field's limit does not allow.

    field:  the field's or the parameter's name.
    value:  what it was given.
    why:    "is not ...", with the nearest valid value.
    source: where the value came from: an option, or a place in a file. `Class.field` where only the class is known.
    """

    def __init__(self, field: str, value: Any, why: str, source: str) -> None:
        self.field, self.value, self.why, self.source = field, value, why, source
        super().__init__(f"{field} {shown(value)} ({source}) {why}")

    def at(self, source: str) -> OutOfLimits:
        """Return the same mistake with another source."""
        return OutOfLimits(self.field, self.value, self.why, source)


@runtime_checkable
class Limit(Protocol):
    """What may stand behind a type in `Annotated` to limit its values."""

    def problem(self, value: Any, base: type, default: Any) -> str | None:
        """Return why a value is not allowed, with the nearest one that is ("is not ... Nearest: 1."), or None.

        base:    the type that is annotated.
        default: the field's own value, or None; a candidate for the nearest.
        """


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`, both included.

    also:    single values outside of it that have a meaning of their own (-1: what is left over).
    typical: the nearest valid value to tell for what is below `least`, where `least` itself makes no sense (a learning rate of 1e-12).
    """

    least: float
    most: float
    also: tuple[float, ...] = ()
    typical: float | None = None

    def problem(self, value: Any, base: type, default: Any) -> str | None:
        """Return why a number is not in the range, or None."""
        whole = base is int
        if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
            return f"is not {self.said(base)}.{self._near(math.nan, default)}"
        if self.least <= value <= self.most or value in self.also:
            return None
        return f"is not {self.said(base)}.{self._near(value, default)}"

    def said(self, base: type) -> str:
        """Return the range in words."""
        kind = "a whole number" if base is int else "a number"
        return f"{kind} from {_spelled(self.least)} to {_spelled(self.most)}" + "".join(
            f", or {_spelled(one)}" for one in self.also
        )

    def _near(self, value: float, default: Any) -> str:
        if value > self.most:
            near: Any = self.most
        elif isinstance(value, int | float) and value < self.least and self.typical is None:
            near = min((self.least, *self.also), key=lambda one: abs(one - value) if math.isfinite(value) else one)
        elif self.typical is not None:
            near = self.typical
        else:
            near = self.least if isinstance(default, bool) or not isinstance(default, int | float) else default
        return f" Nearest: {_spelled(near)}."


_MANY = 2**31 - 1

Count = Annotated[int, Range(1, _MANY)]
"""A number of things, at least one: steps, examples."""
CountOrZero = Annotated[int, Range(0, _MANY)]
"""A number of things; 0 has a meaning of its own."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""Seed of a random generator."""
Rows = Annotated[int, Range(1, 2**20)]
"""Rows of a batch."""
Length = Annotated[int, Range(1, 2**20)]
"""Tokens of a row or a text."""
Generated = Annotated[int, Range(1, 2**16)]
"""Tokens to generate."""
Width = Annotated[int, Range(1, 2**20)]
"""Width of a layer, or heads of it."""
Depth = Annotated[int, Range(1, 10_000)]
"""Depth of a stack."""
Ids = Annotated[int, Range(1, 2**24)]
"""Rows of an embedding: ids of a vocabulary."""
TokenId = Annotated[int, Range(0, 2**24 - 1)]
"""One id of a vocabulary."""
ExtraIds = Annotated[int, Range(0, 2**20)]
"""Ids added to a vocabulary."""
Few = Annotated[int, Range(1, 1024)]
"""A number of things that are all held in memory at a time: beams, samples, shots' seeds."""
FewOrZero = Annotated[int, Range(0, 1024)]
"""`Few`, or none."""
Parts = Annotated[int, Range(1, 2**16)]
"""Parts that something is divided into: processes, shards, microbatches, hosts."""
Axis = Annotated[int, Range(1, 2**20, also=(-1,))]
"""Size of a mesh's axis; -1 takes the devices left over."""
Port = Annotated[int, Range(1, 65535)]
"""A TCP port."""
Seconds = Annotated[int, Range(1, 10_000_000)]
"""Whole seconds, up to some months."""

Rate = Annotated[float, Range(0.0, 0.999)]
"""Rate of dropout or of smoothing."""
Share = Annotated[float, Range(0.0, 1.0)]
"""A share of a whole."""
Momentum = Annotated[float, Range(0.0, 0.999999)]
"""Decay of a running mean. In float32 a number nearer to 1 is 1, and the mean would never change."""
Peak = Annotated[float, Range(1e-12, 1000.0, typical=1e-3)]
"""Highest learning rate."""
Weight = Annotated[float, Range(0.0, 1e6)]
"""Weight of a term in a sum."""
Epsilon = Annotated[float, Range(1e-37, 1.0, typical=1e-8)]
"""Added to a divisor. Smaller numbers are 0 in float32."""
Deviation = Annotated[float, Range(0.0, 1000.0)]
"""Standard deviation of random numbers."""
NormEpsilon = Annotated[float, Range(1e-20, 1.0, typical=1e-6)]
"""Added to the mean square that a norm layer divides by the root of."""
Softcap = Annotated[float, Range(1e-3, 1e6, typical=30.0)]
"""Bound on logits."""
Norm = Annotated[float, Range(1e-12, 1e20, typical=1.0)]
"""A bound on a norm or a scale."""


class _AcceptsFormerNames(abc.ABCMeta):
    """Makes objects of a class from fields under their former names too, see `t2t.former_names`."""

    def __call__(cls, /, *args: Any, **values: Any) -> Any:
        return super().__call__(*args, **former_names.renamed(cls, values))


class Configuration(metaclass=_AcceptsFormerNames):
    """Base of all configuration dataclasses: what its fields' limits do not allow is refused when an object is made.

    A subclass with a `__post_init__` of its own calls `super().__post_init__()` first.
    """

    def __post_init__(self) -> None:
        check_fields(self)

    if not TYPE_CHECKING:  # type checkers know the present names alone

        def __getattr__(self, name: str) -> Any:
            now = former_names.fields(type(self)).get(name)
            if now is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self, now)


def check_fields(config: Any) -> None:
    """Refuse values of a dataclass that its fields' limits do not allow. Raises OutOfLimits."""
    cls: Any = type(config)
    hints = _hints(cls)
    for name, default in _defaults(cls).items():
        if name in hints and (why := problem(getattr(config, name), hints[name], default)):
            raise OutOfLimits(name, getattr(config, name), why, f"{cls.__name__}.{name}")


def check_arguments(function: Any, values: Mapping[str, Any]) -> None:
    """Refuse arguments of a command's function that its parameters' limits do not allow. Raises OutOfLimits, which names the option."""
    hints = _hints(function)
    for name, value in values.items():
        if name in hints and (why := problem(value, hints[name], None)):
            raise OutOfLimits(name, value, why, option(name))


def option(name: str) -> str:
    """Return the option of the command line that a parameter or field of that name is."""
    return f"--{name.replace('_', '-')}"


def problem(value: Any, hint: Any, default: Any = None) -> str | None:
    """Return why a value is not allowed by the limits in a type, or None. Values in tuples and dicts are checked one by one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        base, *rest = arguments
        found = (limit.problem(value, base, default) for limit in rest if isinstance(limit, Limit))
        return next((why for why in found if why), None) or problem(value, base, default)
    if origin in (typing.Union, types.UnionType):
        able = [one for one in arguments if _takes(one, value)]
        said = [problem(value, one, default) for one in able or [one for one in arguments if one is not type(None)]]
        return None if None in said else said[0]
    if origin is tuple and isinstance(value, tuple):
        each = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        return next((why for item, one in zip(value, each, strict=False) if (why := problem(item, one))), None)
    if origin is dict and isinstance(value, dict):
        return next((why for item in value.values() if (why := problem(item, arguments[1]))), None)
    return None


def shown(value: Any) -> str:
    """Return a value as an error shows it: not longer than a line, and printable."""
    try:
        text = str(value) if isinstance(value, int | float) else repr(value)
    except ValueError:  # an integer of thousands of digits
        text = f"a number of more than {_SHOWN} digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _takes(hint: Any, value: Any) -> bool:
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    base = typing.get_origin(base) or base
    if not isinstance(base, type):
        return True
    if base is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, base) and not (base is int and isinstance(value, bool))


def _spelled(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}" if abs(value) >= 1e-3 or not value else f"{value:.0e}"


@functools.cache
def _hints(of: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(of, include_extras=True)


@functools.cache
def _defaults(cls: Hashable) -> dict[str, Any]:
    return {f.name: None if f.default is MISSING else f.default for f in fields(cls)}  # type: ignore[arg-type]
