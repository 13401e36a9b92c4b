import hashlib
from functools import partial

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from t2t.errors import UserError
from t2t.tasks.objectives import corrupted_lengths, raw_length, span_corruption, text_features
from t2t.tasks.objectives.lengths import noise_counts
from t2t.tasks.objectives.span_corruption import noise_turns
from t2t.vocabularies import Bytes

LENGTHS = {"inputs": 64, "targets": 20}


def corrupted(dataset, vocabulary, *, seed=0, lengths=LENGTHS, **parameters):
    features = text_features(vocabulary)
    with seqio.utils.map_seed_manager(seed):
        made = span_corruption(dataset, lengths, features, **parameters)
    return list(made.as_numpy_iterator())


def restored(example, vocabulary):
    """Put the noise back in place of its sentinel; check sentinels and EOS on the way."""
    lowest = vocabulary.size - vocabulary.extra_ids
    inputs, targets = example["inputs"].tolist(), example["targets"].tolist()
    assert inputs.pop() == vocabulary.eos_id
    assert targets.pop() == vocabulary.eos_id
    expected = [vocabulary.sentinel(i) for i in range(sum(i >= lowest for i in inputs))]
    assert [i for i in inputs if i >= lowest] == expected
    assert [i for i in targets if i >= lowest] == expected
    noise, current = {}, None
    for token in targets:
        if token >= lowest:
            current = noise.setdefault(token, [])
        else:
            current.append(token)
    assert all(noise.values()), "a sentinel without noise"
    return [token for i in inputs for token in noise.get(i, [i])]


def test_every_token_once_and_in_order(vocabulary, texts, tokenized):
    rows = [vocabulary.encode(text) for text in texts]
    for seed in range(3):
        examples = corrupted(tokenized(rows), vocabulary, seed=seed)
        assert [i for e in examples for i in restored(e, vocabulary)] == [i for row in rows for i in row]
        assert all(len(e["inputs"]) <= 64 and len(e["targets"]) <= 20 for e in examples)


def test_full_windows_fill_the_inputs_exactly(vocabulary, texts, tokenized):
    ids = (vocabulary.encode(texts[-1]) * 3)[: 568 * 2]
    examples = corrupted(tokenized([ids]), vocabulary, lengths={"inputs": 512, "targets": 114})
    assert [(len(e["inputs"]), len(e["targets"])) for e in examples] == [(512, 114)] * 2


@pytest.mark.parametrize("length", [0, 1, 2, 3])
def test_short_texts(tokenized, length):
    vocabulary = Bytes()
    ids = vocabulary.encode("abc"[:length])
    examples = corrupted(tokenized([ids]), vocabulary)
    assert [restored(e, vocabulary) for e in examples] == ([ids] if length else [])
    if length > 1:
        assert len(examples[0]["targets"]) == 3


@given(
    density=st.floats(0.02, 0.95),
    span=st.floats(1.0, 12.0),
    inputs=st.integers(3, 90),
    size=st.integers(1, 300),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_parameters(tokenized, density, span, inputs, size):
    vocabulary = Bytes(extra_ids=400)
    ids = np.random.default_rng(size).integers(3, 259, size).tolist()
    longest = raw_length(inputs, density, span)
    lengths = {"inputs": inputs, "targets": corrupted_lengths(longest, density, span)[1]}
    examples = corrupted(tokenized([ids]), vocabulary, lengths=lengths, noise_density=density, mean_span=span)
    assert [i for e in examples for i in restored(e, vocabulary)] == ids
    assert all(len(e[k]) <= lengths[k] for e in examples for k in lengths)


def test_counts_are_exact_and_their_division_uniform():
    """Of 4 noise tokens in 2 spans, the 3 divisions 1+3, 2+2, 3+1 come equally often; so do the 5 of what is kept."""

    count = 3000
    turns = noise_turns(
        tf.fill([count], 10), tf.fill([count], 4), tf.fill([count], 2), tf.random.stateless_uniform([count, 10], [3, 7])
    )
    drawn = np.cumsum(turns, axis=1)[:, :10] > 0
    assert (drawn.sum(1) == 4).all()
    starts = drawn & ~np.pad(drawn, [(0, 0), (1, 0)])[:, :-1]
    assert (starts.sum(1) == 2).all()
    assert not drawn[:, 0].any()
    assert drawn[:, -1].all()
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 15
    assert (np.abs(counts - 200) < 5 * np.sqrt(200)).all()


def test_density_and_mean_span(vocabulary, texts, tokenized):
    rows = [vocabulary.encode(text) for text in texts if len(text) > 300]
    examples = corrupted(tokenized(rows), vocabulary, lengths={"inputs": 256, "targets": 100})
    lowest = vocabulary.size - vocabulary.extra_ids
    noise = sum(int((e["targets"] < lowest).sum()) - 1 for e in examples)
    spans = sum(int((e["targets"] >= lowest).sum()) for e in examples)
    assert noise / sum(map(len, rows)) == pytest.approx(0.15, abs=0.01)
    assert noise / spans == pytest.approx(3.0, abs=0.25)


def test_choices_of_a_seed_stay(tokenized):
    """Those that the same algorithm made of one text after the other, with a seed each."""
    vocabulary = Bytes()
    texts = ["one row of tokens after another, " * n for n in (1, 2, 9)]
    examples = corrupted(tokenized([vocabulary.encode(text) for text in texts]), vocabulary)
    assert vocabulary.decode(examples[0]["inputs"]) == "one row of tokens<extra_id_0>er another,<extra_id_1>"
    assert vocabulary.decode(examples[0]["targets"]) == "<extra_id_0> aft<extra_id_1> "
    content = b"".join(example[name].tobytes() for example in examples for name in ("inputs", "targets"))
    assert hashlib.sha256(content).hexdigest()[:16] == "95fa01b2c8c521f6"


def test_the_seed_decides(texts, tokenized):
    vocabulary = Bytes()
    dataset = tokenized([vocabulary.encode(text) for text in texts])
    first, again, other = (corrupted(dataset, vocabulary, seed=seed) for seed in (3, 3, 4))
    assert all((a["inputs"].tolist() == b["inputs"].tolist()) for a, b in zip(first, again, strict=True))
    assert any((a["inputs"].tolist() != b["inputs"].tolist()) for a, b in zip(first, other, strict=True))


def task_of(texts, *objectives):
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({"targets": texts}), ["train"]
    )
    return seqio.Task("texts", source, text_features(Bytes()), [seqio.preprocessors.tokenize, *objectives])


def test_epochs_differ_and_can_be_resumed(texts, tmp_path):
    task = task_of(texts[:6], span_corruption)

    def build():
        return task.get_dataset(LENGTHS, shuffle=False, seed=5, num_epochs=3)

    whole = [e["inputs"].tolist() for e in build().as_numpy_iterator()]
    size = len(whole) // 3
    assert whole[:size] != whole[size : 2 * size] != whole[2 * size :]
    assert whole == [e["inputs"].tolist() for e in build().as_numpy_iterator()]
    for taken in (1, size + 2):
        iterator = iter(build())
        for _ in range(taken):
            next(iterator)
        path = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
        resumed = iter(build())
        tf.train.Checkpoint(iterator=resumed).restore(path)
        assert [e["inputs"].numpy().tolist() for e in resumed] == whole[taken:]


def test_equally_seeded_shards_are_corrupted_differently(tokenized):
    """Virtual shards share a seed: texts of one length must not share their masks for it."""
    vocabulary = Bytes()
    lowest = vocabulary.size - vocabulary.extra_ids

    def mask(text):
        return [i >= lowest for i in corrupted(tokenized([vocabulary.encode(text)]), vocabulary)[0]["inputs"]]

    assert mask("a" * 60) == mask("a" * 60) != mask("b" * 60)


def test_through_a_task(texts):
    vocabulary = Bytes()
    task = task_of(texts, partial(span_corruption, noise_density=0.3, mean_span=2.0))
    lengths = {"inputs": 64, "targets": 40}
    examples = list(task.get_dataset(lengths, shuffle=False, seed=1, num_epochs=2).as_numpy_iterator())
    ids = [i for e in examples for i in restored(e, vocabulary)]
    assert ids == [i for text in texts for i in vocabulary.encode(text)] * 2


def test_without_lengths_a_window_uses_up_the_sentinels(tokenized):
    vocabulary = Bytes(extra_ids=4)
    ids = list(range(3, 259))
    examples = corrupted(tokenized([ids]), vocabulary, lengths=None)
    assert [i for e in examples for i in restored(e, vocabulary)] == ids
    first = noise_counts(len(restored(examples[0], vocabulary)), 0.15, 3.0)
    assert first[1] == 4


def test_a_sentinel_in_the_text_becomes_unknown(tokenized):
    vocabulary = Bytes()
    ids = [*vocabulary.encode("before "), vocabulary.sentinel(0), *vocabulary.encode(" after")]
    (example,) = corrupted(tokenized([ids]), vocabulary)
    assert restored(example, vocabulary) == [vocabulary.unk_id if i == vocabulary.sentinel(0) else i for i in ids]


@pytest.mark.parametrize(
    ("vocabulary", "lengths", "parameters", "words"),
    [
        (Bytes(), {"inputs": 512, "targets": 113}, {}, ["targets_length=113", "targets_length=114"]),
        (Bytes(), {"inputs": 4096, "targets": 4096}, {}, ["inputs_length=4096", "100 sentinels", "mean_span"]),
        (Bytes(extra_ids=0), {"inputs": 64, "targets": 64}, {}, ["0 sentinels", "extra_ids=3"]),
        (Bytes(), {"inputs": 64, "targets": 64}, {"noise_density": 15}, ["noise_density=15"]),
        (Bytes(), {"inputs": 64, "targets": 64}, {"mean_span": float("inf")}, ["mean_span=inf"]),
        (Bytes(), {"inputs": 64, "targets": 64}, {"mean_span": float("nan")}, ["mean_span=nan"]),
    ],
)
def test_refused_before_any_work(tokenized, vocabulary, lengths, parameters, words):
    with pytest.raises(UserError) as error:
        corrupted(tokenized([[3, 4, 5]]), vocabulary, lengths=lengths, **parameters)
    assert all(word in str(error.value) for word in words)


def test_the_advice_given_is_good(tokenized):
    with pytest.raises(UserError, match=r"inputs_length=(\d+) or less") as error:
        corrupted(tokenized([[3, 4, 5]]), Bytes(), lengths={"inputs": 512, "targets": 60})
    advised = int(str(error.value).rsplit("inputs_length=", 1)[1].split()[0])
    assert corrupted(tokenized([[3, 4, 5]]), Bytes(), lengths={"inputs": advised, "targets": 60})
    with pytest.raises(UserError, match=f"inputs_length={advised} or less"):
        corrupted(tokenized([[3, 4, 5]]), Bytes(), lengths={"inputs": advised + 1, "targets": 60})


def test_a_task_without_inputs_is_refused(tokenized):
    with pytest.raises(UserError, match="missing: inputs"):
        span_corruption(tokenized([[3]]), LENGTHS, text_features(Bytes(), inputs=False))
