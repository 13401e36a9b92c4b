"""Presets, and the assignment of overrides to the configuration and its stacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from t2t.errors import UserError, nearest
from t2t.models.config import StackConfig
from t2t.models.transformer_config import TransformerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """A named configuration and its published parameter count.

    config:    function that returns the configuration; takes overrides.
    published: number of parameters, as published.
    source:    source of the published number.
    rounding:  unit that the published number is rounded to; 1 if it is exact.
    active:    number of parameters that process one token, as published and rounded; None if it is all of them.
    besides:   parameters that this implementation has and the published count does not (negative: the reverse), by reason.
    """

    config: Callable[..., TransformerConfig]
    published: int
    source: str
    rounding: int = 1
    active: int | None = None
    besides: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def agrees(self, count: int) -> bool:
        """Whether `count` equals the published number, up to its rounding and the known differences in `besides`."""
        return 2 * abs(count - self.published - sum(self.besides.values())) <= self.rounding - self.rounding % 2


def split_overrides(
    config: type[TransformerConfig], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split overrides into fields of `config` and fields of its stacks.

    Raises:
        UserError: a name is a field of neither.
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
