"""The blocks of a pattern of layers."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from t2t.models.block import Block


class PatternBlocks(nnx.Module):
    """Blocks by their position in a pattern. Their parameters are named "0", "1", ..."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.count = len(blocks)
        for place, block in enumerate(blocks):
            setattr(self, str(place), block)

    def all(self) -> list[Block]:
        """Return the blocks in order."""
        return [getattr(self, str(place)) for place in range(self.count)]
