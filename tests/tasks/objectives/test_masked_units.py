import re
from collections import Counter

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives import encoder_features, entity_masked_lm, masked_lm, span_masked_lm, whole_word_masked_lm
from t2t.tasks.objectives.words import Words
from t2t.vocabularies import Bytes, SentencePiece

LENGTHS = {"inputs": 128, "targets": 128, "weights": 128}


def made(objective, dataset, vocabulary, *, seed=0, lengths=LENGTHS, **parameters):
    with seqio.utils.map_seed_manager(seed):
        found = objective(dataset, lengths, encoder_features(vocabulary), **parameters)
    return list(found.as_numpy_iterator())


def texts_of(vocabulary, texts, **fields):
    """A dataset as tokenization leaves it, with its texts."""
    rows = tf.ragged.constant([vocabulary.encode(text) for text in texts], tf.int32)
    columns = {"targets": rows, "targets_pretokenized": texts, **fields}
    return tf.data.Dataset.from_tensor_slices(columns).map(lambda e: {**e, "targets": e["targets"][:]})


def units(words, example):
    """Lists of (seen, wanted, weight) of each word of an example, its end left out."""
    starts = words.starts(tf.constant(example["targets"])).numpy()
    columns = [example[k].tolist() for k in ("inputs", "targets", "weights")]
    found = []
    for start, *token in zip(starts, *columns, strict=True):
        found += [[]] if start else []
        found[-1].append(tuple(token))
    return found


@pytest.mark.parametrize("objective", [whole_word_masked_lm, entity_masked_lm])
def test_the_text_is_the_targets_and_what_is_not_chosen_stays(sentencepiece_path, texts, objective):
    vocabulary = SentencePiece(path=sentencepiece_path, extra_ids=100)
    examples = made(objective, texts_of(vocabulary, texts), vocabulary)
    wanted = [i for text in texts for i in vocabulary.encode(text)]
    assert [i for e in examples for i in e["targets"] if i != vocabulary.eos_id] == wanted
    for example in examples:
        inputs, targets, weights = (example[k] for k in ("inputs", "targets", "weights"))
        assert len(inputs) == len(targets) == len(weights) <= 128
        assert (inputs[weights == 0] == targets[weights == 0]).all()
        assert weights.sum() > 0


def test_epochs_are_masked_anew_and_the_seed_decides(texts):
    """RoBERTa's dynamic masking: no two epochs alike, the same run again alike."""
    dataset = texts_of(Bytes(), texts[4:]).repeat(2)
    first, again, other = ([e["inputs"].tolist() for e in made(masked_lm, dataset, Bytes(), seed=s)] for s in (1, 1, 2))
    assert first == again != other
    epochs = first[: len(first) // 2], first[len(first) // 2 :]
    assert list(map(len, epochs[0])) == list(map(len, epochs[1]))
    assert all(a != b for a, b in zip(*epochs, strict=True) if len(a) > 20)


def test_whole_words_are_chosen_and_about_their_share_of_tokens(vocabulary, texts):
    words = Words(vocabulary)
    chosen = total = 0
    examples = made(whole_word_masked_lm, texts_of(vocabulary, texts * 3), vocabulary)
    for example in examples:
        of_word = [{weight for *_, weight in word} for word in units(words, example)]
        assert all(len(weights) == 1 for weights in of_word)
        chosen += example["weights"].sum()
        total += len(example["targets"]) - 1
    assert chosen / total == pytest.approx(0.15, abs=0.012)


def test_tokens_of_a_whole_word_are_hidden_one_by_one(texts):
    vocabulary = Bytes()
    examples = made(whole_word_masked_lm, texts_of(vocabulary, texts * 4), vocabulary, rate=0.5)
    hidden = [
        seen == vocabulary.mask_id for e in examples for seen, w in zip(e["inputs"], e["weights"], strict=True) if w
    ]
    assert np.mean(hidden) == pytest.approx(0.8, abs=0.03)
    mixed = [
        {seen == vocabulary.mask_id for seen, *_ in word}
        for e in examples
        for word in units(Words(vocabulary), e)
        if word[0][2]
    ]
    assert any(len(kinds) == 2 for kinds in mixed)


def test_whole_words_of_wordpiece(wordpiece):
    examples = made(
        whole_word_masked_lm, texts_of(wordpiece, ["the models reads rows of tokens and models"] * 40), wordpiece
    )
    pieces = Counter()
    for example in examples:
        assert (example["weights"][[0, -1]] == 0).all()
        for word in units(Words(wordpiece), example):
            assert len({weight for *_, weight in word}) == 1
            pieces[len(word)] += word[0][2]
    assert set(pieces) == {1, 2}
    assert min(pieces.values()) > 0


def spans_of(words, examples):
    """Each chosen span's number of words, and the kinds of what is seen of it."""
    for example in examples:
        run = []
        for word in [*units(words, example), [(0, 0, 0)]]:
            if word[0][2]:
                run.append(word)
            elif run:
                yield len(run), [token for word in run for token in word]
                run = []


@pytest.mark.parametrize("whole_words", [True, False])
def test_spans_have_spanberts_lengths_and_share(texts, whole_words):
    """3.8 words on average, at most 10 (Joshi et al. 2020, section 3.1); a span is hidden as one."""
    vocabulary = Bytes()
    words = Words(vocabulary)
    lengths = dict.fromkeys(LENGTHS, 2001)
    dataset = texts_of(vocabulary, [texts[-1]] * 40)
    examples = made(span_masked_lm, dataset, vocabulary, lengths=lengths, whole_words=whole_words)
    if not whole_words:  # each token a word
        words.starts = lambda ids: tf.fill(tf.shape(ids), True)
    sizes, kinds, single = [], Counter(), 0
    for size, span in spans_of(words, examples):
        sizes.append(size)
        seen = {"mask" if i == vocabulary.mask_id else "kept" if i == t else "other" for i, t, _ in span}
        if len(span) > 3:
            assert seen in ({"mask"}, {"kept"}, {"other"}, {"other", "kept"})
            kinds["mask" if "mask" in seen else "other" if "other" in seen else "kept"] += 1
            single += 1
    assert max(sizes) <= 10
    assert np.mean(sizes) == pytest.approx(3.8, abs=0.25)
    assert min(sizes) == 1
    assert kinds["mask"] / single == pytest.approx(0.8, abs=0.07)
    assert kinds["other"]
    assert kinds["kept"]
    for example in examples:
        there = units(words, example)[:-1]
        assert sum(word[0][2] for word in there) == round(0.15 * len(there))


def test_entities_are_hidden_as_one():
    vocabulary = Bytes()
    text = "See `jax.numpy.sum` for it, MultiHeadAttention or max_seq_len and other words of some length here."
    names = ["`jax.numpy.sum`", "MultiHeadAttention", "max_seq_len"]
    examples = made(entity_masked_lm, texts_of(vocabulary, [text] * 80), vocabulary)
    counts = Counter()
    for example in examples:
        weights = example["weights"]
        for name in names:
            at = slice(text.index(name), text.index(name) + len(name))
            assert len(set(weights[at].tolist())) == 1, name
            counts[name] += weights[at.start]
            if weights[at.start]:
                seen = example["inputs"][at]
                assert (seen == vocabulary.mask_id).all() or not (seen == vocabulary.mask_id).any()
    assert all(5 < counts[name] < 75 for name in names), counts


def test_entities_of_a_field_and_of_another_pattern(wordpiece):
    texts = ["the model reads a row of tokens and writes it", "a row of tokens and a model"]
    field = {"entities": tf.ragged.constant([["row of tokens"], ["a model", "no such"]])}
    dataset = texts_of(wordpiece, texts, **field).map(lambda e: {**e, "entities": e["entities"][:]}).repeat(40)
    found = set()
    for example in made(entity_masked_lm, dataset, wordpiece, field="entities"):
        ids = example["targets"].tolist()
        name = "row of tokens" if len(ids) > 10 else "a model"
        part = wordpiece.encode(name)
        at = next(i for i in range(len(ids)) if ids[i : i + len(part)] == part and (name != "a model" or i > 4))
        weights = example["weights"][at : at + len(part)].tolist()
        assert len(set(weights)) == 1
        found.add((name, weights[0]))
    assert len(found) == 4
    dataset = texts_of(Bytes(), texts[:1] * 40)
    for example in made(entity_masked_lm, dataset, Bytes(), pattern="model reads"):
        assert len(set(example["weights"][4:15].tolist())) == 1


@pytest.mark.parametrize(
    ("objective", "parameters", "message"),
    [
        (whole_word_masked_lm, {"rate": 0.0}, "rate=0.0 of whole_word_masked_lm"),
        (span_masked_lm, {"stop": 1.0}, "stop=1.0 of span_masked_lm: must be between 0 and 1; SpanBERT uses 0.2"),
        (span_masked_lm, {"longest": 0}, "longest=0 of span_masked_lm"),
        (entity_masked_lm, {"pattern": "("}, r"pattern='\(' of entity_masked_lm"),
        (entity_masked_lm, {"field": "names"}, "no field 'names', only targets, targets_pretokenized"),
    ],
)
def test_refused_before_any_work(objective, parameters, message):
    with pytest.raises(UserError, match=message):
        made(objective, texts_of(Bytes(), ["a b"]), Bytes(), **parameters)


def test_entities_need_the_text_that_the_ids_are_of(tokenized):
    with pytest.raises(UserError, match="no field 'targets_pretokenized'"):
        made(entity_masked_lm, tokenized([[5, 6]]), Bytes())
    dataset = texts_of(Bytes(), ["a text"]).map(lambda e: {**e, "targets": e["targets"][:2]})
    with pytest.raises(tf.errors.OpError, match=re.escape("a text of 6 tokens has 2")):
        made(entity_masked_lm, dataset, Bytes())


def test_short_texts_and_all_of_a_text():
    objective = span_masked_lm
    dataset = texts_of(Bytes(), ["a", "ab", "a b"])
    assert [e["weights"].sum() >= 1 for e in made(objective, dataset, Bytes())] == [True] * 3
    assert [e["weights"].tolist() for e in made(objective, dataset, Bytes(), rate=1.0)] == [
        [1, 0],
        [1, 1, 0],
        [1, 1, 1, 0],
    ]
