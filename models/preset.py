"""What a preset is, and how overrides reach its parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from t2t.errors import UserError, nearest
from t2t.models.config import StackConfig, TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A configuration by name, and the parameter count that was published for it.

    config:    returns the configuration; takes overrides.
    published: parameters, as published.
    source:    where.
    rounding:  what the published number is rounded to, 1 where it is exact.
    besides:   what this implementation has more (or, negative, less) than what was counted, and why.
    """

    config: Callable[..., TransformerConfig]
    published: int
    source: str
    rounding: int = 1
    besides: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def agrees(self, count: int) -> bool:
        """Whether `count` parameters are what was published, up to its rounding and what is here besides."""
        return 2 * abs(count - self.published - sum(self.besides.values())) <= self.rounding - self.rounding % 2


def split_overrides(
    config: type[TransformerConfig], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide overrides into fields of `config` and fields of its stacks.

    Raises:
        UserError: a name is neither's.
    """
    top = {field.name for field in dataclasses.fields(config)}
    stack = {field.name for field in dataclasses.fields(StackConfig)}
    for name in overrides:
        if name not in top | stack:
            raise UserError(f"unknown field {name!r} of {config.__name__}.{nearest(name, top | stack)}")
    return (
        {name: value for name, value in overrides.items() if name in top},
        {name: value for name, value in overrides.items() if name not in top},
    )
