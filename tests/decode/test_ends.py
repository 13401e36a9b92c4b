"""Texts that any of several ids ends: cut there, told as ended, without the token."""

from dataclasses import replace

import jax

from t2t.config import from_json, to_json
from t2t.decode import Greedy, Sampling, generate_many, generate_texts
from t2t.vocabularies import Bytes
from tests.decode.toy import ToyConfig, make


def test_the_ids_that_end_are_eos_and_the_others_once():
    vocabulary = Bytes(ends=(5, 1, 7))
    assert vocabulary.end_ids == (1, 5, 7)
    assert Bytes().end_ids == (1,)
    assert from_json(to_json(vocabulary)) == vocabulary
    assert vocabulary.decode_generated([*vocabulary.encode("ab"), 5, *vocabulary.encode("c")]) == "ab"
    # A text of training may hold them.
    ends = replace(vocabulary, ends=tuple(vocabulary.encode("b")))
    assert ends.decode(ends.encode("abc")) == "abc"
    assert ends.decode_generated(ends.encode("abc")) == "a"


def test_a_run_before_there_were_several_is_read():
    old = to_json(Bytes())
    old.pop("ends")
    assert from_json(old) == Bytes()


def test_continuations_end_with_the_id_that_ended_them():
    model, params = make(ToyConfig(vocab_size=6, sharpness=0.3), 0)
    how, inputs = Sampling(samples=8), [[2, 3], [4]]
    made = generate_many(
        model, params, inputs, how, length=9, eos_id=(1, 4), bos_id=None, key=jax.random.key(1), pad_id=0
    )
    found = [one.ids for outputs in made for one in outputs]
    assert {ids[-1] for ids in found} >= {1, 4}
    assert all(i not in (1, 4) for ids in found for i in ids[:-1])
    assert all(len(ids) == 9 for ids in found if ids[-1] not in (1, 4))


def test_texts_are_cut_before_the_id_that_ended_them():
    model, params = make(ToyConfig(vocab_size=259), 0)
    free = generate_texts(model, params, Bytes(extra_ids=0), ["q"], Greedy(), length=12)[0][0]
    assert not free.ended
    first = generate_many(
        model, params, [[*Bytes().encode("q"), 1]], Greedy(), length=12, eos_id=1, bos_id=Bytes().bos_id, vocab_size=259
    )[0][0].ids
    end = next(i for i in first[3:] if i not in first[:3])
    cut = generate_texts(model, params, Bytes(extra_ids=0, ends=(end,)), ["q"], Greedy(), length=12)[0][0]
    assert cut.ended
    assert cut.text == Bytes().decode(first[: first.index(end)])
    assert cut.text != free.text
