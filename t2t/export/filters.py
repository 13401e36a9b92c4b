"""The filters of depthwise convolutions, in tables of tensors (`t2t.export.mapping`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from t2t.export.mapping import Entry, Joined, Operation, Shape


@dataclass(frozen=True)
class Filters(Operation):
    """Our filters [size, channels] side by side, with the channels first and an axis of length 1 after them, as in a depthwise `Conv1d` of PyTorch."""

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Split the channels."""
        return Joined(axis=-1).to_ours(theirs[:, 0].T, shapes)

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Join the channels."""
        return Joined(axis=-1).to_theirs(ours).T[:, None]

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return [channels, 1, size]."""
        size, channels = Joined(axis=-1).shape(shapes)
        return (channels, 1, size)


def convolution(theirs: str, ours: Sequence[str], *, bias: bool) -> list[Entry]:
    """Return the entries of a depthwise convolution that computes several of ours at once (`t2t.nn.recurrent.convolution`)."""
    filters = Entry(f"{theirs}.weight", tuple(f"{path}/filter" for path in ours), Filters())
    biases = Entry(f"{theirs}.bias", tuple(f"{path}/bias" for path in ours), Joined(axis=0))
    return [filters, biases] if bias else [filters]
