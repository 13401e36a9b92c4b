from collections import Counter
from functools import partial

import numpy as np
import pytest
import seqio

from t2t.errors import UserError
from t2t.tasks.objectives import causal_lm, fill_in_the_middle, prefix_lm, text_features
from t2t.vocabularies import Bytes


def made(objective, dataset, vocabulary, lengths, *, seed=0, inputs=True):
    with seqio.utils.map_seed_manager(seed):
        return list(objective(dataset, lengths, text_features(vocabulary, inputs=inputs)).as_numpy_iterator())


def ended(rows, vocabulary, window):
    """Return the rows' ids with EOS behind each whose last window has room for it."""
    return [i for row in rows for i in [*row, *[vocabulary.eos_id] * (window is None or len(row) % window > 0)]]


def test_causal_every_token_once_and_eos_where_texts_end(vocabulary, texts, tokenized):
    rows = [vocabulary.encode(text) for text in texts]
    examples = made(causal_lm, tokenized(rows), vocabulary, {"inputs": 7, "targets": 50})
    assert [i for e in examples for i in e["targets"]] == ended(rows, vocabulary, 50)
    assert all(len(e["targets"]) <= 50 and len(e["inputs"]) == 0 for e in examples)
    assert set(made(causal_lm, tokenized(rows), vocabulary, None, inputs=False)[0]) == {"targets"}


@pytest.mark.parametrize("lengths", [(40, 40), (64, 16), (16, 64), None])
def test_prefix_every_token_once(vocabulary, texts, tokenized, lengths):
    rows = [vocabulary.encode(text) for text in texts]
    limits = lengths and dict(zip(("inputs", "targets"), lengths, strict=True))
    examples = made(prefix_lm, tokenized(rows), vocabulary, limits)
    together = []
    for example in examples:
        assert example["inputs"][-1] == vocabulary.eos_id
        assert len(example["targets"]) >= 1
        if lengths:
            assert len(example["inputs"]) <= lengths[0]
            assert len(example["targets"]) <= lengths[1]
        together += [*example["inputs"][:-1], *example["targets"]]
    assert together == ended(rows, vocabulary, lengths and max(lengths[0] - 1, lengths[1]))


def test_the_prefix_ends_anywhere_equally_often(tokenized):
    ids = list(range(3, 11))  # and EOS: 9 tokens, 8 places
    random = np.random.default_rng(0)
    dataset = tokenized([random.permutation(ids) for _ in range(1600)])
    examples = made(prefix_lm, dataset, Bytes(), {"inputs": 10, "targets": 10})
    places, counts = np.unique([len(e["inputs"]) - 1 for e in examples], return_counts=True)
    assert places.tolist() == list(range(1, 9))
    assert (np.abs(counts - 200) < 5 * np.sqrt(200)).all()


@pytest.mark.parametrize("objective", [causal_lm, prefix_lm])
def test_no_window_is_of_eos_alone(objective, tokenized):
    for length in range(1, 30):
        ids = list(range(3, 3 + length))
        examples = made(objective, tokenized([ids]), Bytes(), {"inputs": 8, "targets": 7})
        # A prefix ends in EOS of its own.
        before = [e["inputs"].tolist()[:-1] for e in examples]
        together = [i for inputs, e in zip(before, examples, strict=True) for i in [*inputs, *e["targets"]]]
        assert together == ids + [1] * (length % 7 > 0)
        assert all(inputs or e["targets"].tolist() != [1] for inputs, e in zip(before, examples, strict=True))
        assert len(examples) == -(-length // 7)


def test_an_empty_text_gives_nothing(tokenized):
    for objective in (causal_lm, prefix_lm):
        assert made(objective, tokenized([[]]), Bytes(), {"inputs": 8, "targets": 8}) == []


def test_the_seed_decides(tokenized):
    dataset = tokenized([list(range(3, 100))])
    first, again, other = (
        [e["inputs"].tolist() for e in made(prefix_lm, dataset, Bytes(), {"inputs": 30, "targets": 30}, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize(
    ("objective", "lengths", "named"),
    [
        (causal_lm, {"targets": 0}, "targets_length=0"),
        (prefix_lm, {"inputs": 1, "targets": 5}, "inputs_length=1"),
        (prefix_lm, {"inputs": 5, "targets": 0}, "targets_length=0"),
    ],
)
def test_no_room_is_refused(tokenized, objective, lengths, named):
    with pytest.raises(UserError, match=named):
        made(objective, tokenized([[3]]), Bytes(), lengths)


def put_back(ids, vocabulary):
    """Return (the text, "suffix first", "prefix first" or "as it was", the lengths of the three parts)."""
    assert ids[-1] == vocabulary.eos_id
    ids, marks = ids[:-1], [vocabulary.sentinel(i) for i in range(3)]
    if marks[0] not in ids:
        return ids, "as it was", (0, len(ids), 0)
    first, second, third = (ids.index(mark) for mark in marks)
    assert first == 0
    assert second < third
    prefix, suffix, rest = ids[1:second], ids[second + 1 : third], ids[third + 1 :]
    # Suffix first is told from an empty prefix by nothing: both have the same form.
    return [*prefix, *rest, *suffix], "prefix first" if prefix else "either", (len(prefix), len(rest), len(suffix))


def test_filling_in_the_middle_keeps_every_token_in_its_place(vocabulary, texts, tokenized):
    rows = [vocabulary.encode(text) for text in texts]
    for share in (0.0, 0.5, 1.0):
        objective = partial(fill_in_the_middle, rate=0.9, suffix_first=share)
        examples = made(objective, tokenized(rows), vocabulary, {"inputs": 4, "targets": 40})
        assert all(len(e["targets"]) <= 40 and len(e["inputs"]) == 0 for e in examples)
        found = [put_back(e["targets"].tolist(), vocabulary) for e in examples]
        assert [i for text, _, _ in found for i in text] == [i for row in rows for i in row]
        if share == 1.0:
            assert {kind for _, kind, _ in found} == {"either", "as it was"}


def test_middles_are_moved_at_the_rates_asked_for_and_cut_anywhere(tokenized):
    random = np.random.default_rng(0)
    dataset = tokenized([random.permutation(np.arange(3, 200))[:3] for _ in range(4000)])
    lengths = {"targets": 16}
    examples = made(partial(fill_in_the_middle, rate=0.75, suffix_first=0.0), dataset, Bytes(), lengths, inputs=False)
    found = [put_back(e["targets"].tolist(), Bytes()) for e in examples]
    moved = [parts for _, kind, parts in found if kind != "as it was"]
    assert len(moved) == pytest.approx(3000, abs=5 * (4000 * 0.75 * 0.25) ** 0.5)
    places = Counter((prefix, prefix + middle) for prefix, middle, _ in moved)
    # Two cuts, each at one of four places: equal ones half as often as unequal ones.
    assert set(places) == {(i, j) for i in range(4) for j in range(i, 4)}
    for (i, j), count in places.items():
        wanted = len(moved) / 16 * (1 if i == j else 2)
        assert abs(count - wanted) < 5 * wanted**0.5


@pytest.mark.parametrize(
    ("parameters", "lengths", "message"),
    [
        ({"rate": 1.5}, {"targets": 9}, r"rate=1.5 of fill_in_the_middle: must be between 0 and 1"),
        ({}, {"targets": 4}, r"targets_length=4 is too short for fill_in_the_middle: it needs at least 5"),
    ],
)
def test_impossible_middles_are_refused(tokenized, parameters, lengths, message):
    with pytest.raises(UserError, match=message):
        made(partial(fill_in_the_middle, **parameters), tokenized([[5]]), Bytes(), lengths, inputs=False)
