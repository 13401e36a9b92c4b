"""How many texts fit in the host's memory at once: attention over a text takes memory that grows with the square of its tokens."""

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
    """Return how many of the texts may be computed at a time, at most `batch_size`.

    An accelerator's memory is not looked at, nor are models whose memory grows with the length alone.

    Raises:
      TooLong: texts over which attention alone would take more memory than there is.
    """
    config, left = run.experiment.model.portable(), memory.available()
    if jax.default_backend() != "cpu" or left is None or not config.row_bytes(1):
        return batch_size
    # A token is at least a byte of text but for the few that stand around it: only what may not fit is tokenised.
    texts = ["".join((row["inputs"], row.get("second", ""))) for row in rows]
    sizes = {i: len(text.encode()) + 4 for i, text in enumerate(texts)}
    likely = {i: size for i, size in sizes.items() if config.row_bytes(bucket(size)) > left // batch_size}
    tokens = {i: min(size, len(run.vocabulary.encode(texts[i])) + 4) for i, size in likely.items()}
    most = bucket(1, least=1)
    while config.row_bytes(2 * most) <= left:
        most *= 2
    long = {i: (size, most) for i, size in tokens.items() if size > most}
    for i, (size, _) in long.items():
        raise TooLong(
            f"{name(i)} has about {size:,} tokens: attention over them takes {config.row_bytes(bucket(size)) / 1e9:.0f} GB of memory,"
            f" and {left / 1e9:.1f} GB are free. At most {most:,} tokens can be taken.",
            long,
        )
    widest = max((bucket(size) for size in tokens.values()), default=0)
    fits = left // config.row_bytes(widest) if widest else batch_size
    return max(min(batch_size, fits), 1)
