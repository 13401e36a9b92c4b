"""Decoding with real transformers: caches, ragged prompts, learned and relative positions, prefix masks."""

import jax
import numpy as np
import pytest

from t2t import models
from t2t.decode import Beam, Greedy, fill_many, generate_many, score_many
from t2t.decode.rows import tokens
from t2t.types import Batch

EOS, VOCAB, LENGTH = 1, 24, 6
SIZES = {"num_layers": 2, "d_model": 16, "num_heads": 2, "vocab_size": VOCAB, "dropout": 0.0}
CONFIGS = {
    "t5": models.t5.t5(d_ff=32, **SIZES),
    "gpt": models.gpt.gpt(max_length=32, init_std=0.5, **SIZES),
    "gpt-prefix": models.gpt.gpt(max_length=32, mask="prefix", init_std=0.5, **SIZES),
}
INPUTS = [[5, 6, 7, EOS], [9, 3, EOS], [4, 8, 8, 2, 11, 12, 13, 14, 3, EOS], [7]]


@pytest.fixture(scope="module", params=CONFIGS)
def made(request):
    model = CONFIGS[request.param].build()
    params = jax.jit(model.init)(jax.random.key(1))
    return model, params, jax.jit(model.logits)


def full_forward(made, inputs, outputs):
    """Log-probabilities [N, len(outputs) + 1, V] of what comes after the outputs' beginnings, without any cache."""
    model, params, logits = made
    shape = (len(inputs), 18)
    if model.config.kind == "encoder_decoder":
        starts, encoder, prefixes = [[0]] * len(inputs), tokens(inputs, shape), None
    else:
        starts, encoder, prefixes = [[0, *ids] for ids in inputs], None, [1 + len(ids) for ids in inputs]
    rows = [[*start, *output] for start, output in zip(starts, outputs, strict=True)]
    decoder = tokens(rows, shape, prefixes=prefixes)
    found = logits(params, Batch(encoder=encoder, decoder=decoder, targets=decoder.ids, weights=np.ones(shape)))
    found = np.array(jax.nn.log_softmax(found))
    return [found[i, len(start) - 1 :][: len(output) + 1] for i, (start, output) in enumerate(zip(starts, outputs, strict=True))]  # fmt: skip


@pytest.mark.slow
def test_greedy_decoding_equals_the_full_forward_pass(made):
    model, params, _ = made
    outputs = [best[0] for best in generate_many(model, params, INPUTS, Greedy(), length=LENGTH, eos_id=EOS)]
    steps = full_forward(made, INPUTS, [output.ids for output in outputs])
    varied = set()
    for output, log_probs in zip(outputs, steps, strict=True):
        log_probs[:, 0] = -np.inf
        assert output.ids == np.argmax(log_probs, axis=1)[: len(output.ids)].tolist()
        assert len(output.ids) == LENGTH or output.ids[-1] == EOS
        expected = sum(log_probs[i, token] for i, token in enumerate(output.ids))
        np.testing.assert_allclose(output.score, expected, rtol=1e-4)
        varied.add(tuple(output.ids))
    assert len(varied) > 1
    one = [best[0] for best in generate_many(model, params, INPUTS, Beam(size=1), length=LENGTH, eos_id=EOS)]
    assert [output.ids for output in one] == [output.ids for output in outputs]


def test_beams_carry_their_caches_with_them(made):
    model, params, _ = made
    decoding = Beam(size=5, return_n=5, length_penalty=0.6)
    found = generate_many(model, params, INPUTS, decoding, length=LENGTH, eos_id=EOS)
    for n in range(5):
        outputs = [beams[n] for beams in found]
        steps = full_forward(made, INPUTS, [output.ids for output in outputs])
        for output, log_probs in zip(outputs, steps, strict=True):
            total = sum(log_probs[i, token] for i, token in enumerate(output.ids))
            np.testing.assert_allclose(output.score, total / ((5 + len(output.ids)) / 6) ** 0.6, rtol=1e-4)
    parents = {tuple(ids[:k]) for beams in found for ids, _ in beams for k in range(1, len(ids))}
    assert len(parents) > len(INPUTS) * LENGTH  # hypotheses did branch


def test_scores_equal_the_full_forward_pass(made):
    model, params, _ = made
    targets = [[3, 4, EOS], [EOS], [8, 8, 8, EOS], [2, 3]]
    steps = full_forward(made, INPUTS, targets)
    expected = [sum(row[i, t] for i, t in enumerate(ids)) for row, ids in zip(steps, targets, strict=True)]
    np.testing.assert_allclose(score_many(model, params, INPUTS, targets), expected, rtol=1e-4)


def test_bert_fills_in_masks_as_the_full_forward_pass_does():
    model = models.bert.bert(max_length=32, init_std=0.5, **SIZES).build()
    params = jax.jit(model.init)(jax.random.key(0))
    rows = [[5, 23, 7, EOS], [23, 3, 4, 23, 6, 7, 8, 9, 10, 11, EOS]]
    together = fill_many(model, params, rows, 23, top=4)
    shape = (2, 20)
    encoder = tokens(rows, shape)
    batch = Batch(encoder=encoder, decoder=None, targets=encoder.ids, weights=np.ones(shape))
    probabilities = np.asarray(jax.nn.softmax(jax.jit(model.logits)(params, batch)))
    for ids, fills, row in zip(rows, together, probabilities, strict=True):
        for place, fill in zip([i for i, token in enumerate(ids) if token == 23], fills, strict=True):
            assert fill.ids == np.argsort(-row[place])[:4].tolist()
            np.testing.assert_allclose(fill.probabilities, np.sort(row[place])[::-1][:4], rtol=1e-4)
