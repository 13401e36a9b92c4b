"""Packed logits equal unpacked ones, position by position, for each architecture and backend."""

import jax
import numpy as np
import pytest

from tests.models.tiny import VOCAB, batch, config, logits_of, params_of, quick_jit, row, rows

RANDOM = np.random.default_rng(0)
INPUTS = [RANDOM.integers(1, VOCAB, n) for n in (5, 0, 7, 3)]
"""The second example has no inputs at all: its targets must see none, not its neighbours'."""
TARGETS = [RANDOM.integers(1, VOCAB, n) for n in (4, 6, 3, 5)]
PREFIXES = [2, 5, 0, 3]


@pytest.mark.parametrize("backend", ["einsum", "chunked"])
@pytest.mark.parametrize(
    "name", ["t5", "t5-1.0", "longt5", "bart", "pegasus", "merged", "gpt", "gpt-1", "moe", "prefix", "bert", "deberta"]
)
def test_packed_equals_unpacked(name, backend):
    settings = config(name, attention=backend, attention_block=4)
    encoder = settings.kind == "encoder"
    own = batch(
        settings.kind,
        rows([row(INPUTS, 18), *(row([x], 18) for x in INPUTS)]),
        rows([row(TARGETS, 21, PREFIXES), *(row([x], 21, [n]) for x, n in zip(TARGETS, PREFIXES, strict=True))]),
    )
    logits = np.asarray(logits_of(settings)(own))
    together, apart = logits[0], logits[1:]
    at = 0
    for index, example in enumerate(INPUTS if encoder else TARGETS):
        np.testing.assert_allclose(together[at : at + len(example)], apart[index, : len(example)], atol=1e-5, rtol=1e-5)
        at += len(example)
    assert np.isfinite(together).all()
    assert float(np.std(together)) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5", "longt5", "gpt", "bert"])
def test_rows_of_padding_alone_are_finite_with_their_gradients(name):
    model, params = params_of(config(name))
    empty = row([], 6)
    blank = batch(model.config.kind, empty, empty)
    gradients = quick_jit(jax.grad(lambda p: (model.logits(p, blank) ** 2).mean()))(params)
    for gradient in jax.tree.leaves(gradients):
        assert np.isfinite(gradient).all()
