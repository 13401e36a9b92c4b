"""Limits of values, declared in the types of fields and options.

A field's type contains its limit: `batch_size: Rows = 64`, where `Rows = Annotated[int, Range(1, 2**20)]`. Every configuration class is a
`Configuration`, which checks its fields at creation: in Python, from a run.json, or from the command line. `check_arguments` does the same for
the parameters of a function. No range contains NaN or infinity. Maxima are larger than any value that fits in memory today. They exist so that a
mistake (a length of 1e9) is an error at once, before memory is allocated.
"""

from __future__ import annotations

import abc
import functools
import math
import types
import typing
from collections.abc import Hashable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, runtime_checkable

from t2t import former_names
from t2t.errors import UserError

_SHOWN = 60
"""Maximum number of characters of a wrong value in an error."""


class OutOfLimits(UserError):
    """A value outside the limit of its field.

    field:  name of the field or parameter.
    value:  the wrong value.
    why:    "is not ...", with the nearest valid value.
    source: source of the value: an option, or a place in a file. `Class.field` if only the class is known.
    """

    def __init__(self, field: str, value: Any, why: str, source: str) -> None:
        self.field, self.value, self.why, self.source = field, value, why, source
        super().__init__(f"{field} {shown(value)} ({source}) {why}")

    def at(self, source: str) -> OutOfLimits:
        """Return the same error with another source."""
        return OutOfLimits(self.field, self.value, self.why, source)


@runtime_checkable
class Limit(Protocol):
    """Limit of values, for use in `Annotated` after the type."""

    def problem(self, value: Any, base: type, default: Any) -> str | None:
        """Return why a value is not valid, with the nearest valid value ("is not ... Nearest: 1."). None if the value is valid.

        base:    the annotated type.
        default: the field's default, or None. It may be the nearest value.
        """


@dataclass(frozen=True)
class Range:
    """Finite numbers from `least` to `most`, inclusive.

    also:    other valid values with a special meaning, such as -1.
    typical: suggestion for values below `least`, if `least` itself is not a sensible value (a learning rate of 1e-12).
    """

    least: float
    most: float
    also: tuple[float, ...] = ()
    typical: float | None = None

    def problem(self, value: Any, base: type, default: Any) -> str | None:
        """Return why a number is not in the range, or None."""
        whole = base is int
        if isinstance(value, bool) or not isinstance(value, int | float) or (whole and not isinstance(value, int)):
            return f"is not {self.describe(base)}.{self._near(math.nan, default)}"
        if self.least <= value <= self.most or value in self.also:
            return None
        return f"is not {self.describe(base)}.{self._near(value, default)}"

    def describe(self, base: type) -> str:
        """Return a description of the range, for errors."""
        kind = "a whole number" if base is int else "a number"
        return f"{kind} from {_format(self.least)} to {_format(self.most)}" + "".join(
            f", or {_format(one)}" for one in self.also
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
        return f" Nearest: {_format(near)}."


_MANY = 2**31 - 1

Count = Annotated[int, Range(1, _MANY)]
"""A count, at least 1: steps, examples."""
CountOrZero = Annotated[int, Range(0, _MANY)]
"""A count; 0 has a special meaning."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
"""Seed of a random number generator."""
Rows = Annotated[int, Range(1, 2**20)]
"""Rows of a batch."""
Length = Annotated[int, Range(1, 2**20)]
"""Number of tokens of a row or a text."""
Generated = Annotated[int, Range(1, 2**16)]
"""Number of tokens to generate."""
Width = Annotated[int, Range(1, 2**20)]
"""Width of a layer, or its number of heads."""
WidthOrZero = Annotated[int, Range(0, 2**20)]
"""`Width`, or 0 if there is no such layer."""
Depth = Annotated[int, Range(1, 10_000)]
"""Number of layers of a stack."""
Ids = Annotated[int, Range(1, 2**24)]
"""Vocabulary size: rows of an embedding."""
TokenId = Annotated[int, Range(0, 2**24 - 1)]
"""A token id."""
ExtraIds = Annotated[int, Range(0, 2**20)]
"""Number of ids added to a vocabulary."""
Few = Annotated[int, Range(1, 1024)]
"""A small count: beams, samples, few-shot seeds. All of them are in memory at once."""
FewOrZero = Annotated[int, Range(0, 1024)]
"""`Few`, or 0."""
Experts = Annotated[int, Range(1, 2**14)]
"""Number of experts of a layer."""
ExpertsOrZero = Annotated[int, Range(0, 2**14)]
"""`Experts`, or 0."""
Parts = Annotated[int, Range(1, 2**16)]
"""Number of parts: processes, shards, microbatches, hosts."""
Axis = Annotated[int, Range(1, 2**20, also=(-1,))]
"""Size of a mesh axis; -1 takes the remaining devices."""
Port = Annotated[int, Range(1, 65535)]
"""A TCP port."""
Seconds = Annotated[int, Range(1, 10_000_000)]
"""Whole seconds, up to several months."""

Rate = Annotated[float, Range(0.0, 0.999)]
"""Dropout rate or label smoothing."""
Share = Annotated[float, Range(0.0, 1.0)]
"""A fraction."""
Momentum = Annotated[float, Range(0.0, 0.999999)]
"""Decay of a running mean. A larger number would be 1 in float32, and the mean would never change."""
Peak = Annotated[float, Range(1e-12, 1000.0, typical=1e-3)]
"""Peak learning rate."""
Weight = Annotated[float, Range(0.0, 1e6)]
"""Weight of a term in a sum."""
Epsilon = Annotated[float, Range(1e-37, 1.0, typical=1e-8)]
"""Epsilon added to a divisor. Smaller numbers are 0 in float32."""
Deviation = Annotated[float, Range(0.0, 1000.0)]
"""Standard deviation of random numbers."""
NormEpsilon = Annotated[float, Range(1e-20, 1.0, typical=1e-6)]
"""Epsilon of a norm layer, added to the mean square."""
Softcap = Annotated[float, Range(1e-3, 1e6, typical=30.0)]
"""Soft cap of logits."""
LogitScale = Annotated[float, Range(1e-6, 1e6, typical=0.125)]
"""Factor on attention logits."""
Norm = Annotated[float, Range(1e-12, 1e20, typical=1.0)]
"""Maximum of a norm, or a scale."""


class _AcceptsFormerNames(abc.ABCMeta):
    """Metaclass that accepts former names of fields in the constructor, see `t2t.former_names`."""

    def __call__(cls, /, *args: Any, **values: Any) -> Any:
        return super().__call__(*args, **former_names.renamed(cls, values))


class Configuration(metaclass=_AcceptsFormerNames):
    """Base class of all configuration dataclasses. The constructor checks the limits of the fields.

    A subclass with its own `__post_init__` must call `super().__post_init__()` first.
    """

    added_later: ClassVar[frozenset[str]] = frozenset()
    """Fields that earlier versions did not have. At their default value, they do not change the fingerprint (`t2t.config.fingerprint`)."""

    def __post_init__(self) -> None:
        check_fields(self)

    if not TYPE_CHECKING:  # hide former names from type checkers

        def __getattr__(self, name: str) -> Any:
            now = former_names.fields(type(self)).get(name)
            if now is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return getattr(self, now)


def check_fields(config: Any) -> None:
    """Raise OutOfLimits if a field of a dataclass has a value outside its limit."""
    cls: Any = type(config)
    hints = _hints(cls)
    for name, default in _defaults(cls).items():
        if name in hints and (why := problem(getattr(config, name), hints[name], default)):
            raise OutOfLimits(name, getattr(config, name), why, f"{cls.__name__}.{name}")


def check_arguments(function: Any, values: Mapping[str, Any]) -> None:
    """Raise OutOfLimits if an argument of a command's function is outside its limit. The error names the option."""
    hints = _hints(function)
    for name, value in values.items():
        if name in hints and (why := problem(value, hints[name], None)):
            raise OutOfLimits(name, value, why, option(name))


def option(name: str) -> str:
    """Return the command-line option of a parameter or field."""
    return f"--{name.replace('_', '-')}"


def problem(value: Any, hint: Any, default: Any = None) -> str | None:
    """Return why a value is outside the limits in a type, or None. Elements of tuples and dicts are checked too."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        base, *rest = arguments
        found = (limit.problem(value, base, default) for limit in rest if isinstance(limit, Limit))
        return next((why for why in found if why), None) or problem(value, base, default)
    if origin in (typing.Union, types.UnionType):
        options = [one for one in arguments if _takes(one, value)]
        options = options or [one for one in arguments if one is not type(None)]
        problems = [problem(value, one, default) for one in options]
        return None if None in problems else problems[0]
    if origin is tuple and isinstance(value, tuple):
        each = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        return next((why for item, one in zip(value, each, strict=False) if (why := problem(item, one))), None)
    if origin is dict and isinstance(value, dict):
        return next((why for item in value.values() if (why := problem(item, arguments[1]))), None)
    return None


def shown(value: Any) -> str:
    """Return a value for errors: printable and shortened."""
    try:
        text = str(value) if isinstance(value, int | float) else repr(value)
    except ValueError:  # an integer with thousands of digits
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


def _format(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}" if abs(value) >= 1e-3 or not value else f"{value:.0e}"


@functools.cache
def _hints(of: Hashable) -> dict[str, Any]:
    return typing.get_type_hints(of, include_extras=True)


@functools.cache
def _defaults(cls: Hashable) -> dict[str, Any]:
    return {f.name: None if f.default is MISSING else f.default for f in fields(cls)}  # type: ignore[arg-type]
