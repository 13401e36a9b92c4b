"""Batch sizes that grow during training (Brown et al. 2020, appendix B; Warner et al. 2024)."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass

from t2t.errors import UserError


@dataclass(frozen=True)
class Ramp:
    """The rows of each global batch.

    starts: numbers of the batches, counted from 0, from which on `rows` holds. Ascending, from 0 on.
    rows:   rows of a batch. Ascending.
    """

    starts: tuple[int, ...]
    rows: tuple[int, ...]

    def at(self, batch: int) -> int:
        """Return the rows of a batch."""
        return self.rows[bisect.bisect_right(self.starts, batch) - 1]

    def up_to(self, steps: int) -> int:
        """Return the rows of the first `steps` batches together."""
        ends = [*self.starts[1:], steps]
        spans = zip(self.starts, ends, self.rows, strict=True)
        return sum(max(min(end, steps) - start, 0) * rows for start, end, rows in spans)


def parse(text: str) -> Ramp:
    """Return the ramp of "0:256,1000:512": 256 rows from batch 0 on, 512 from batch 1000 on.

    Raises UserError if the text is not such a list, does not begin at 0, or does not grow.
    """
    where = f"batch_ramp {text!r} (--data.batch-ramp)"
    found = [re.fullmatch(r"\s*(\d{1,9}):(\d{1,7})\s*", part) for part in text.split(",")]
    pairs = [(int(match[1]), int(match[2])) for match in found if match]
    if len(pairs) < len(found):
        raise UserError(f"{where} is not a list of STEP:ROWS. Nearest: {_text(pairs or [(0, 64)])}.")
    if pairs[0][0]:
        raise UserError(f"{where} begins at step {pairs[0][0]}. Nearest: {_text([(0, pairs[0][1]), *pairs[1:]])}.")
    grown = [pairs[0]]
    for pair in pairs[1:]:
        if pair[0] > grown[-1][0] and pair[1] > grown[-1][1]:
            grown.append(pair)
    if grown != pairs or not pairs[0][1]:
        near = _text([pair for pair in grown if pair[1]] or [(0, 64)])
        raise UserError(f"{where}: steps and rows must grow from pair to pair. Nearest: {near}.")
    return Ramp(*zip(*pairs, strict=True))


def _text(pairs: list[tuple[int, int]]) -> str:
    return ",".join(f"{start}:{rows}" for start, rows in pairs)
