"""Recurrent mixers keep what they read before they have learned anything: a memory that fades within a few tokens cannot learn to keep it."""

import jax
import numpy as np
import pytest

from tests.adapters.test_recurrent import DECODERS
from tests.models.tiny import VOCAB, quick_jit, some_batch, with_ids

LENGTH = 32
"""More than the convolutions of all layers read."""


@pytest.mark.parametrize("name", DECODERS)
def test_the_last_token_still_depends_on_the_first(name):
    model = DECODERS[name].build()
    params = model.init(jax.random.key(1))
    logits = quick_jit(lambda batch: model.logits(params, batch)[:, -1])
    batch = some_batch("decoder", length=LENGTH)

    def changed(column):
        """The largest change of the last logits when a token changes."""
        other = (batch.decoder.ids[0, column] + 1) % VOCAB
        return float(np.abs(logits(batch) - logits(with_ids(batch, "decoder", column, other))).max())

    first, late = changed(1), changed(LENGTH - 2)
    assert first > 1e-5 * late > 0
