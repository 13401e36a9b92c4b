"""Word problems: answers that end in a number (GSM8K, Cobbe et al. 2021, https://arxiv.org/abs/2110.14168)."""

from __future__ import annotations

import decimal
import re
from collections.abc import Sequence
from typing import Any

from t2t.errors import UserError

_NUMBER = re.compile(r"-?[\d,]*\d(?:\.\d+)?|-?\.\d+")
_MARK = "####"
"""The mark before the final number of a solution in GSM8K."""


def final_number(text: str) -> decimal.Decimal | None:
    """Return the final number of a solution: the first one after the last "####", else the last one of the text; None if there is none.

    Commas between digits do not count, and 18.00 equals 18. GSM8K (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168) marks the number; a model may not.
    """
    _, mark, after = str(text).rpartition(_MARK)
    found = _NUMBER.findall(after)
    if not found:
        return None
    number = decimal.Decimal((found[0] if mark else found[-1]).replace(",", ""))
    return number.normalize() if number else decimal.Decimal(0)


def number_match(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """Return the fraction of predictions whose final number is that of the target, see `final_number`.

    Raises UserError if there is no example, if the numbers of targets and predictions differ, or if a target has no number.
    """
    if len(targets) != len(predictions) or not targets:
        raise UserError(f"number_match: {len(targets)} targets and {len(predictions)} predictions.")
    wanted = [final_number(target) for target in targets]
    if None in wanted:
        raise UserError(f"number_match: the target {str(targets[wanted.index(None)])[:60]!r} has no number.")
    right = sum(final_number(one) == number for one, number in zip(predictions, wanted, strict=True))
    return {"number_match": right / len(targets)}


number_match.judges = True  # type: ignore[attr-defined]
number_match.answer = final_number  # type: ignore[attr-defined]
