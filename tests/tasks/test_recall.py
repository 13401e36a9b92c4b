"""Associative recall: what its texts contain, and what is predicted in them."""

from __future__ import annotations

import numpy as np
import pytest

from t2t import tasks
from t2t.data import Data
from t2t.data.pipeline import batches
from t2t.errors import UserError
from t2t.tasks.recall import FILLER, KEYS, VALUES, VOCABULARY, Recall

DATA = Data(task="associative_recall", inputs_length=32, targets_length=64, batch_size=4, shards=1, shuffle_buffer=0)


@pytest.mark.parametrize(("pairs", "length"), [(1, 4), (16, 96), (52, 208)])
def test_each_key_is_asked_once_and_followed_by_its_value(pairs, length):
    draw = np.random.default_rng(0)
    for _ in range(20):
        inputs, targets = Recall(pairs, length)(draw)
        assert (len(inputs), len(targets)) == Recall(pairs, length).lengths == (2 * pairs, length - 2 * pairs)
        given = dict(zip(inputs[::2], inputs[1::2], strict=True))
        assert len(given) == pairs
        assert set(given) <= set(KEYS)
        assert set(given.values()) <= set(VALUES)
        slots = [targets[at : at + 2] for at in range(0, len(targets), 2)]
        asked = [slot for slot in slots if slot != FILLER * 2]
        assert sorted(asked) == sorted(key + value for key, value in given.items())


def test_keys_values_and_the_filler_are_different_characters_of_the_vocabulary():
    assert len({*KEYS, *VALUES, FILLER}) == len(KEYS) + len(VALUES) + 1 == VOCABULARY.size - 3


def test_queries_are_more_often_near_the_pairs():
    draw = np.random.default_rng(0)
    places = np.zeros(32)
    for _ in range(300):
        _, targets = Recall(4, 72)(draw)
        places += [targets[2 * at] != FILLER for at in range(32)]
    assert places[0] > 3 * places[16:].mean()


def test_a_decoder_predicts_the_values_alone_and_each_in_its_place():
    stream = batches(DATA, "decoder")
    batch = next(stream)
    stream.close()
    source = tasks.find("associative_recall").source  # the same texts come again
    assert [VOCABULARY.decode(row) for row in batch.targets] == [
        one["inputs"] + one["targets"] for one in source.read_block("train", 0)[:4]
    ]
    assert (batch.weights.sum(axis=1) == 16).all()
    texts = [VOCABULARY.decode(row) for row in batch.targets]
    for text, weights in zip(texts, batch.weights, strict=True):
        given = dict(zip(text[:32:2], text[1:32:2], strict=True))
        for at in np.flatnonzero(weights):
            assert given[text[at - 1]] == text[at]
            assert at >= 32


def test_what_cannot_be_is_refused_in_a_line():
    with pytest.raises(UserError, match=r"pairs 60 of associative recall: there are 52 keys. Nearest: 52."):
        Recall(60, 400)
    with pytest.raises(UserError, match=r"length 30 of associative recall: .* Nearest: 32."):
        Recall(8, 30)
    with pytest.raises(UserError, match=r"a model of kind 'encoder_decoder' cannot read it. Nearest: a decoder."):
        next(batches(DATA, "encoder_decoder"))
    with pytest.raises(UserError, match=r"a task of that name already exists"):
        tasks.add_recall("associative_recall")
