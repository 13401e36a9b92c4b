import subprocess
import sys
from dataclasses import dataclass

import jax
import numpy as np
import pytest

from t2t.decode import (
    Beam,
    Greedy,
    Sampling,
    fill_many,
    fill_texts,
    generate,
    generate_many,
    generate_texts,
    score,
    score_many,
    score_texts,
)  # fmt: skip
from t2t.decode.rows import bucket, groups, tokens
from t2t.errors import UserError
from t2t.types import Batch
from t2t.vocabularies import Bytes, Vocabulary
from tests.decode.toy import (
    Toy,
    ToyConfig,
    ToyEncoderConfig,
    ToyEncoderDecoderConfig,
    batch_for,
    make,
    next_log_probs,
)  # fmt: skip
from tests.decode.toy import tokens as toy_tokens

EOS = 1


def target_log_prob(model, params, before, after, inputs=None):
    return sum(float(next_log_probs(model, params, before + after[:i], inputs)[t]) for i, t in enumerate(after))


def test_buckets():
    assert [bucket(n) for n in (0, 1, 16, 17, 32, 33, 100)] == [16, 16, 16, 32, 32, 64, 128]
    assert bucket(3, least=1) == 4
    assert bucket(100, limit=120) == 120
    with pytest.raises(ValueError, match="over the limit"):
        bucket(121, limit=120)


def test_groups_hold_every_item_once_and_few_shapes():
    sizes = [(bucket(n),) for n in np.random.default_rng(0).integers(1, 200, 333).tolist()]
    found = list(groups(sizes, 32, parts=4))
    assert sorted(i for group in found for i in group.indices) == list(range(333))
    for group in found:
        assert len(group.indices) <= group.rows <= 32
        assert group.rows % 4 == 0
    shapes = {(group.rows, max(sizes[i] for i in group.indices)) for group in found}
    assert len(shapes) <= 6
    padded = sum(group.rows * max(sizes[i][0] for i in group.indices) for group in found)
    assert padded < 1.5 * sum(size for (size,) in sizes)


def test_tokens_are_padded_at_the_end_with_rows_of_padding_below():
    made = tokens([[5, 6], [7]], (3, 4), prefixes=[1, 1])
    assert made.ids.tolist() == [[5, 6, 0, 0], [7, 0, 0, 0], [0, 0, 0, 0]]
    assert made.segments.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert made.positions.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert made.prefix.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("config", [ToyConfig(vocab_size=9), ToyEncoderDecoderConfig(vocab_size=9)])
@pytest.mark.parametrize("decoding", [Greedy(), Beam(size=2, return_n=2), Sampling(samples=2)])
def test_many_equal_one_by_one_in_the_order_given(config, decoding):
    model, params = make(config)
    rng = np.random.default_rng(1)
    inputs = [rng.integers(1, 9, n).tolist() for n in (3, 12, 1, 9, 5, 2)]
    key = jax.random.key(4)
    many = generate_many(model, params, inputs, decoding, length=5, eos_id=EOS, batch_size=4, key=key)
    for i, ids in enumerate(inputs):
        decoder_only = config.kind == "decoder"
        longest = [2] * 33  # beside it, so that all have one shape
        batch = batch_for([[0, *ids], longest]) if decoder_only else batch_for([[0], [0]], [ids, longest])
        keys = jax.numpy.stack([jax.random.fold_in(key, i), key])
        alone = generate(model, params, batch, decoding, length=5, eos_id=EOS, key=keys)
        for n, (got, value) in enumerate(many[i]):
            assert got == [t for t in alone.ids[0, n].tolist() if t]
            np.testing.assert_allclose(value, alone.scores[0, n], rtol=1e-5)


def test_requests_of_near_lengths_do_not_compile_again():
    model, params = Toy(ToyConfig(vocab_size=9)), make(ToyConfig(vocab_size=9))[1]
    generate_many(model, params, [[2] * 9, [3] * 12], Greedy(), length=4, eos_id=EOS)
    traced = model.traces
    generate_many(model, params, [[2] * 13, [3] * 10], Greedy(), length=4, eos_id=EOS)
    generate_many(model, params, [[2] * 15, [3] * 2], Greedy(), length=4, eos_id=EOS)
    assert model.traces == traced


def test_inputs_too_long_for_the_positions_are_named():
    model, params = make(ToyConfig(positions=12))
    fits = generate_many(model, params, [[2] * 8, [2]], Greedy(), length=4, eos_id=EOS)
    assert np.isfinite(fits[0][0].score)
    with pytest.raises(UserError, match=r"text 2 has 9 tokens; the maximum is 8 for the model's 12 positions"):
        generate_many(model, params, [[2], [2] * 9], Greedy(), length=4, eos_id=EOS)
    with pytest.raises(UserError, match="line 7"):
        score_many(model, params, [[2] * 9], [[2] * 4], name=lambda i: f"line {i + 7}")
    assert np.isfinite(score_many(model, params, [[2] * 9], [[2] * 3])).all()


def test_score_sums_weighted_log_probabilities():
    model, params = make(ToyConfig())
    decoder = toy_tokens([[0, 2, 3, 4], [0, 4]])
    targets = np.array([[2, 3, 4, 1], [4, 1, 0, 0]], np.int32)
    weights = np.array([[0, 1, 0.5, 1], [1, 1, 0, 0]], np.float32)
    made = score(model, params, Batch(encoder=None, decoder=decoder, targets=targets, weights=weights))
    p = [float(next_log_probs(model, params, [0, 2, 3, 4][: i + 1])[t]) for i, t in enumerate([2, 3, 4, 1])]
    np.testing.assert_allclose(made[0], p[1] + 0.5 * p[2] + p[3], rtol=1e-5)
    np.testing.assert_allclose(made[1], target_log_prob(model, params, [0], [4, 1]), rtol=1e-5)


def test_score_many_equals_the_enumerated_probabilities():
    model, params = make(ToyConfig())
    inputs = [[2, 3], [4] * 11, [], [3]]
    targets = [[3, 1], [2], [2, 2, 2, 2, 2, 2, 2, 2, 2, 1], [1]]
    expected = [target_log_prob(model, params, [0, *a], b) for a, b in zip(inputs, targets, strict=True)]
    np.testing.assert_allclose(score_many(model, params, inputs, targets, batch_size=3), expected, rtol=1e-5)
    model, params = make(ToyEncoderDecoderConfig())
    inputs[2] = [4]
    expected = [target_log_prob(model, params, [0], b, a) for a, b in zip(inputs, targets, strict=True)]
    np.testing.assert_allclose(score_many(model, params, inputs, targets, batch_size=3), expected, rtol=1e-5)


def test_an_encoder_scores_an_answer_in_place_of_masks():
    model, params = make(ToyEncoderConfig())
    mask, inputs, targets = 4, [[2, 3], [], [3] * 9], [[3, 1], [2], [1]]
    expected = []
    for before, after in zip(inputs, targets, strict=True):
        row = [*before, *[mask] * len(after)]
        mean = params["embedding"][row].mean(axis=0)
        logits = model.config.sharpness * np.tanh(params["embedding"][mask] + mean) @ params["out"]
        log_probs = logits - np.log(np.exp(logits).sum())
        expected.append(sum(log_probs[token] for token in after))  # none of them knows of the others
    made = score_many(model, params, inputs, targets, mask_id=mask, batch_size=2)
    np.testing.assert_allclose(made, expected, rtol=1e-5)
    with pytest.raises(UserError, match="only in place of masks"):
        score_many(model, params, [[2]], [[2]])


def test_fill_mask_gives_each_masks_distribution():
    model, params = make(ToyEncoderConfig(vocab_size=9))
    inputs = [[2, 8, 3], [8], [4, 8, 8, 5, 2, 8, 3, 3, 3]]
    made = fill_many(model, params, inputs, 8, top=3)
    assert [len(fills) for fills in made] == [1, 1, 3]
    embedding, out = np.asarray(params["embedding"]), np.asarray(params["out"])
    for ids, fills in zip(inputs, made, strict=True):
        for place, fill in zip([i for i, t in enumerate(ids) if t == 8], fills, strict=True):
            logits = 2.0 * np.tanh(embedding[ids[place]] + embedding[ids].mean(0)) @ out
            probabilities = np.exp(logits) / np.exp(logits).sum()
            assert fill.ids == np.argsort(-probabilities)[:3].tolist()
            np.testing.assert_allclose(fill.probabilities, np.sort(probabilities)[::-1][:3], rtol=1e-5)
    with pytest.raises(UserError, match="text 2 has no mask"):
        fill_many(model, params, [[8], [2]], 8)


@dataclass(frozen=True, kw_only=True)
class Letters(Vocabulary):
    """a ... e are 2 ... 6; one extra id, 7, is sentinel and mask."""

    extra_ids: int = 1

    @property
    def size(self):
        return 8

    @property
    def eos_id(self):
        return EOS

    @property
    def unk_id(self):
        return 2

    def encode(self, text):
        return ["abcde".index(letter) + 2 for letter in text]

    def _decode(self, ids):
        return "".join("__abcde?"[i] for i in ids)


def test_texts_in_texts_out():
    vocabulary = Letters()
    model, params = make(ToyEncoderDecoderConfig(vocab_size=10))
    texts = ["ab", "<extra_id_0>cd", "eee"]
    made = generate_texts(model, params, vocabulary, texts, Beam(size=3, return_n=2), length=6)
    ids = [[2, 3, EOS], [7, 4, 5, EOS], [6, 6, 6, EOS]]
    expected = generate_many(
        model, params, ids, Beam(size=3, return_n=2), length=6, eos_id=EOS, vocab_size=vocabulary.size
    )
    for outputs, continuations in zip(made, expected, strict=True):
        for output, continuation in zip(outputs, continuations, strict=True):
            assert output.text == vocabulary.decode(continuation.ids)
            assert output.ended == (continuation.ids[-1] == EOS)
            assert max(continuation.ids) < vocabulary.size
    value = score_texts(model, params, vocabulary, [("ab", "ba")])
    np.testing.assert_allclose(value, [target_log_prob(model, params, [0], [3, 2, EOS], [2, 3, EOS])], rtol=1e-5)


def test_language_models_go_on_with_the_text():
    vocabulary = Letters()
    model, params = make(ToyConfig(vocab_size=8))
    (made,) = generate_texts(model, params, vocabulary, ["ab"], Greedy(), length=4, append_eos=False)
    (expected,) = generate_many(model, params, [[2, 3]], Greedy(), length=4, eos_id=EOS)
    assert made[0].text == vocabulary.decode(expected[0].ids)


def test_fill_texts():
    vocabulary = Letters()
    model, params = make(ToyEncoderConfig(vocab_size=8))
    made = fill_texts(model, params, vocabulary, ["a<mask>b<mask>", "[MASK]"], top=2)
    expected = fill_many(model, params, [[2, 7, 3, 7, EOS], [7, EOS]], 7, top=2)
    assert [[[c.id for c in mask] for mask in text] for text in made] == [[f.ids for f in text] for text in expected]
    assert [len(text) for text in made] == [2, 1]


def test_kinds_that_do_not_fit_are_refused():
    encoder, encoder_params = make(ToyEncoderConfig())
    decoder, decoder_params = make(ToyConfig())
    with pytest.raises(UserError, match="generates no text"):
        generate_many(encoder, encoder_params, [[2]], Greedy(), length=2, eos_id=EOS)
    with pytest.raises(UserError, match="kind decoder"):
        fill_many(decoder, decoder_params, [[2]], 2)
    with pytest.raises(UserError, match="has no mask"):
        fill_texts(encoder, encoder_params, Bytes(extra_ids=0), ["<mask>"])


@pytest.mark.slow
def test_rows_are_spread_over_a_mesh():
    program = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from t2t.decode import Beam, Sampling, generate_many, score_many
from t2t.sharding import MeshConfig
from tests.decode.toy import Toy, ToyEncoderDecoderConfig, make
model = Toy(ToyEncoderDecoderConfig(vocab_size=8))
params = jax.tree.map(jax.numpy.asarray, make(model.config)[1])
mesh = MeshConfig(data=2, tensor=2).build()
axes = {"embedding": ("tensor",), "mix": (), "out": (None, "tensor")}
sharded = {n: jax.device_put(p, NamedSharding(mesh, PartitionSpec(*axes[n]))) for n, p in params.items()}
inputs = [[2, 3], [4] * 9, [5, 5, 5]]
for decoding in (Beam(size=3, return_n=2), Sampling(samples=3)):
    made = [generate_many(model, p, inputs, decoding, length=4, eos_id=1, key=jax.random.key(2)) for p in (params, sharded)]
    assert [[c.ids for c in row] for row in made[0]] == [[c.ids for c in row] for row in made[1]], made
    np.testing.assert_allclose(*[[[c.score for c in row] for row in m] for m in made], rtol=1e-5)
np.testing.assert_allclose(*[score_many(model, p, inputs, inputs) for p in (params, sharded)], rtol=1e-5)
import sys
assert not {"tensorflow", "seqio"} & set(sys.modules)
"""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "PYTHONPATH": ".",
    }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
