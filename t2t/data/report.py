"""Report token lengths, truncation and padding of a task, measured on its first examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from t2t.data import sources
from t2t.data.blocks import blocks, unstacked
from t2t.data.config import Data
from t2t.data.converters import Row
from t2t.data.faults import surfaced
from t2t.data.packing import Packer
from t2t.data.registry import check, converter_of, provider_of
from t2t.errors import UserError
from t2t.nn.model import Kind


@dataclass(frozen=True, kw_only=True)
class Report:
    """Statistics of the first examples of a split.

    examples:       number of examples read.
    mean_lengths:   mean number of tokens of each feature, before truncation.
    max_lengths:    maximum number of tokens of each feature, before truncation.
    room:           maximum number of tokens that each feature may have.
    trimmed:        fraction of examples truncated to fit.
    empty:          fraction of examples without a target. They are dropped.
    padding:        fraction of row positions that are padding, with one example in each row.
    padding_packed: the same with packing.
    """

    examples: int
    mean_lengths: dict[str, float]
    max_lengths: dict[str, int]
    room: dict[str, int]
    trimmed: float
    empty: float
    padding: float
    padding_packed: float


def inspect(data: Data, kind: Kind, *, examples: int = 200) -> Report:
    """Return a report on the first `examples` examples of `data.split`, in order. A mixture samples its tasks by their rates.

    Raises:
      UserError: for the reasons of `t2t.data.pipeline.batches`.
    """
    check(data, kind, training=False)
    if examples < 1:
        raise UserError(f"examples={examples}: must be at least 1.")
    try:
        return _report(data, kind, examples)
    except Exception as error:
        raise surfaced(error) from error


def _report(data: Data, kind: Kind, examples: int) -> Report:
    provider = provider_of(data)
    layout = converter_of(data, kind, provider)
    dataset = sources.examples(provider, data, layout, repeat=False, shuffle=False).take(examples)
    lengths: dict[str, list[int]] = {name: [] for name in layout.features}
    kept = []
    trimmed = 0
    for block in blocks(dataset, min(examples, 128)):
        for example in unstacked(block, layout.features):
            for name, ids in example.items():
                lengths[name].append(len(ids))
            fitted, cut = layout.fit(example)
            trimmed += cut
            if layout.predicts(fitted):
                kept.append(fitted)
    count = len(lengths["targets"])
    if not count:
        raise UserError(f"task {data.task!r}, split {data.split!r} has no examples.")
    packer = Packer(layout, pack=True)
    packed: list[Row] = [row for example in kept for row in packer.add(example)]
    packed += packer.flush()
    tokens = sum(sum(layout.sizes(example)) for example in kept)
    row_size = sum(layout.capacity)
    return Report(
        examples=count,
        mean_lengths={name: float(np.mean(sizes)) for name, sizes in lengths.items()},
        max_lengths={name: max(sizes) for name, sizes in lengths.items()},
        room=layout.limits,
        trimmed=trimmed / count,
        empty=1 - len(kept) / count,
        padding=1 - tokens / max(1, len(kept) * row_size),
        padding_packed=1 - tokens / max(1, len(packed) * row_size),
    )
