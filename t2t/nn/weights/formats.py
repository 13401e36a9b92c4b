"""The formats by name."""

from __future__ import annotations

from typing import Literal, get_args

from t2t.errors import UserError, nearest
from t2t.nn.weights.format import Format
from t2t.nn.weights.integers import Integers
from t2t.nn.weights.nf4 import NF4
from t2t.nn.weights.ternary import Ternary

Quantize = Literal["none", "int8", "int8_groups", "int4", "int4_groups", "nf4", "ternary"]
"""How kernels are stored. "none" stores floats."""

FORMATS: dict[str, Format] = {
    "int8": Integers(8, per_group=False),
    "int8_groups": Integers(8, per_group=True),
    "int4": Integers(4, per_group=False),
    "int4_groups": Integers(4, per_group=True),
    "nf4": NF4(),
    "ternary": Ternary(),
}


def checked_format(name: str, *, option: str) -> Quantize:
    """Return the name of a format, or "none". Raises UserError if it is unknown. option: where the name came from."""
    known: tuple[Quantize, ...] = get_args(Quantize)
    for one in known:
        if one == name:
            return one
    raise UserError(f"unknown format {name!r} ({option}).{nearest(name, known)}")
