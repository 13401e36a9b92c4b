"""Number of texts that fit in host memory at once. The memory of attention grows with the square of the number of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from t2t import memory
from t2t.api.lengths import Name
from t2t.decode import TooLong
from t2t.decode.rows import bucket
from t2t.train.run import SavedRun


def rows_that_fit(run: SavedRun, rows: Sequence[dict[str, Any]], batch_size: int, name: Name) -> int:
    """Return how many of the texts fit in memory at once, at most `batch_size`.

    On accelerators, and for models whose memory grows linearly with the length, this is always `batch_size`.

    Raises:
      TooLong: attention over some texts alone would take more memory than available.
    """
    config, left = run.experiment.model.portable(), memory.available()
    if jax.default_backend() != "cpu" or left is None or not config.row_bytes(1):
        return batch_size
    # A token is at least one byte of text, except for a few special tokens. So only tokenise the texts that may not fit.
    texts = ["".join((row["inputs"], row.get("second", ""))) for row in rows]
    sizes = {i: len(text.encode()) + 4 for i, text in enumerate(texts)}
    likely = {i: size for i, size in sizes.items() if config.row_bytes(bucket(size)) > left // batch_size}
    tokens = {i: min(size, len(run.vocabulary.encode(texts[i])) + 4) for i, size in likely.items()}
    limit = bucket(1, least=1)
    while config.row_bytes(2 * limit) <= left:
        limit *= 2
    long = {i: (size, limit) for i, size in tokens.items() if size > limit}
    for i, (size, _) in long.items():
        raise TooLong(
            f"{name(i)} has about {size:,} tokens: attention over them takes {config.row_bytes(bucket(size)) / 1e9:.0f} GB of memory,"
            f" and {left / 1e9:.1f} GB are free. The maximum is {limit:,} tokens.",
            long,
        )
    widest = max((bucket(size) for size in tokens.values()), default=0)
    fits = left // config.row_bytes(widest) if widest else batch_size
    return max(min(batch_size, fits), 1)
