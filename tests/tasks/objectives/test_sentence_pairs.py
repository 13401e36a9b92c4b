from collections import Counter

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks import metrics
from t2t.tasks.objectives import (
    encoder_features,
    masked_lm_with_next_sentence,
    masked_lm_with_sentence_order,
    pair_decision,
    translation_lm,
)
from t2t.vocabularies import Bytes, SentencePiece

LENGTHS = {"inputs": 64, "targets": 64, "weights": 64, "types": 64}
FEATURES = ("inputs", "targets", "weights", "types")
DOCUMENTS = [
    " ".join(f"{letter * 3}{n} {letter * 2} of it." for n in range(size))
    for letter, size in zip("abcdefghijklmnop", [9, 2, 5, 1, 12, 3, 7, 8, 4, 6, 10, 11, 3, 5, 9, 2], strict=True)
]
"""Each of a letter of its own, so that a part tells its document."""


def made(objective, dataset, vocabulary, *, seed=0, lengths=LENGTHS, **parameters):
    with seqio.utils.map_seed_manager(seed):
        return objective(dataset, lengths, encoder_features(vocabulary, types=True), **parameters)


def halves(example, vocabulary):
    """Texts of the pair, as the targets have them, special tokens left out."""
    targets, types = example["targets"][1:], example["types"][1:]
    return [vocabulary.decode([i for i in targets[types == which] if i != vocabulary.eos_id]) for which in (0, 1)]


def check_form(examples, vocabulary):
    answers = set()
    for example in examples:
        inputs, targets, weights, types = (example[k] for k in FEATURES)
        assert len(inputs) == len(targets) == len(weights) == len(types) <= 64
        assert inputs[0] == (vocabulary.mask_id if vocabulary.cls_id is None else vocabulary.cls_id)
        assert weights[0] == weights[1:].sum() > 0
        assert (types == np.sort(types)).all()
        ends = np.flatnonzero(targets == vocabulary.eos_id)
        assert ends.tolist() == [np.flatnonzero(types == 0)[-1], len(targets) - 1]
        assert (inputs[1:][weights[1:] == 0] == targets[1:][weights[1:] == 0]).all()
        wanted = vocabulary.decode(targets[:1])
        assert example["pair_answers"][example["pair"]].decode() == wanted
        answers.add(wanted)
    assert len(answers) == 2


@pytest.fixture(scope="module")
def next_sentences(tokenized):
    dataset = tokenized([Bytes().encode(text) for text in DOCUMENTS]).repeat(8)
    return made(masked_lm_with_next_sentence, dataset, Bytes(), neighbours=5)


def test_half_of_the_second_texts_are_the_next_and_the_others_another_documents(next_sentences):
    examples = list(next_sentences.as_numpy_iterator())
    check_form(examples, Bytes())
    examples = [e for e in examples if min(map(len, halves(e, Bytes()))) > 10]  # enough to tell the document by
    true, starts, others = 0, Counter(), set()
    for example in examples:
        first, second = halves(example, Bytes())
        source = next(text for text in DOCUMENTS if first in text)
        if example["pair"] == 0:
            true += 1
            assert first + second in source
        else:
            assert second not in source
            assert any(second in text for text in DOCUMENTS)
            others.add((DOCUMENTS.index(source), next(i for i, text in enumerate(DOCUMENTS) if second in text)))
        starts[source[source.index(first) + len(first) - 1]] += 1
    assert abs(true - len(examples) / 2) < 2 * len(examples) ** 0.5
    assert starts["."] > 0.9 * len(examples), "cut where a sentence begins"
    assert len({a for a, _ in others}) > 10
    assert len(others) > 30, "not always the same neighbour"
    # A false half is no longer than the true one, and its length tells nothing where the other text is long enough.
    sizes = [np.mean([e["types"].sum() for e in examples if e["pair"] == answer]) for answer in (0, 1)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.25)


def test_epochs_pair_anew_and_the_same_seed_pairs_alike(next_sentences, tokenized):
    def rows(dataset):
        return [tuple(e["inputs"].tolist()) for e in dataset.as_numpy_iterator()]

    first = rows(next_sentences)
    dataset = tokenized([Bytes().encode(text) for text in DOCUMENTS]).repeat(8)
    assert first == rows(made(masked_lm_with_next_sentence, dataset, Bytes(), neighbours=5))
    assert len(set(first)) > 0.95 * len(first)


def test_a_restored_iterator_goes_on_with_the_same_pairs(next_sentences, tmp_path):
    options = tf.data.Options()
    options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.FAIL
    dataset = next_sentences.with_options(options)
    iterator = iter(dataset)
    for _ in range(23):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "place"))
    wanted = [next(iterator)["inputs"].numpy().tolist() for _ in range(30)]
    other = iter(dataset)
    tf.train.Checkpoint(iterator=other).read(path).assert_consumed()
    assert [next(other)["inputs"].numpy().tolist() for _ in range(30)] == wanted


def test_a_text_alone_is_followed_by_its_own(tokenized):
    dataset = tokenized([Bytes().encode(DOCUMENTS[0]), [], [5]])
    examples = list(made(masked_lm_with_next_sentence, dataset, Bytes()).as_numpy_iterator())
    assert examples
    assert all(e["pair"] == 0 for e in examples)


def test_sentence_order_swaps_half_of_the_pairs(sentencepiece_path, tokenized):
    vocabulary = SentencePiece(path=sentencepiece_path, extra_ids=100)
    text = "the model reads a row of tokens and writes what was left out between two sentinels of it"
    dataset = tokenized([vocabulary.encode(text)] * 80)
    made_of = made(masked_lm_with_sentence_order, dataset, vocabulary, answers=("the", "out"))
    examples = list(made_of.as_numpy_iterator())
    check_form(examples, vocabulary)
    cuts = set()
    for example in examples:
        ids, border = example["targets"].tolist(), example["types"].tolist().index(1)
        first, second = ids[1 : border - 1], ids[border:-1]
        assert vocabulary.decode(first + second if example["pair"] == 0 else second + first) in text
        cuts.add(len(first))
    assert len(cuts) > 5
    true = sum(e["pair"] == 0 for e in examples)
    assert abs(true - len(examples) / 2) < 2 * len(examples) ** 0.5


def test_pairs_of_wordpiece_are_framed_and_their_weight_is_chosen(wordpiece, tokenized):
    dataset = tokenized(
        [wordpiece.encode("the model reads a row of tokens and writes what was left out") for _ in range(40)]
    )
    examples = list(
        made(
            masked_lm_with_sentence_order,
            dataset,
            wordpiece,
            answers=("it", "what"),
            pair_weight=0.5,
            rate=0.4,
            whole_words=True,
        ).as_numpy_iterator()
    )
    for example in examples:
        assert example["inputs"][0] == wordpiece.cls_id
        assert example["targets"][0] in wordpiece.encode("it what")
        assert example["targets"][-1] == wordpiece.sep_id
        assert (example["targets"] == wordpiece.sep_id).sum() == 2
        assert example["weights"][0] == round(0.5 * example["weights"][1:].sum())
    assert {e["targets"][0] for e in examples} == set(wordpiece.encode("it what"))


def test_the_decision_is_read_off_a_prediction():
    raw = {"pair": np.int32(1), "pair_answers": np.array([b"y", b"n"], object)}
    texts = ["n of it", "yes", "", "of", "n"]
    decisions = [pair_decision(text, example=raw) for text in texts]
    assert decisions == ["n", "y", "", "", "n"]
    targets = [pair_decision("y whatever", example=raw, is_target=True)] * 5
    assert metrics.pair_accuracy(targets, decisions) == {"pair_accuracy": 0.4}


def parallel(vocabulary, pairs):
    first, second = (
        tf.ragged.constant([vocabulary.encode(t) for t in texts], tf.int32) for texts in zip(*pairs, strict=True)
    )
    dataset = tf.data.Dataset.from_tensor_slices({"inputs": first, "targets": second})
    return dataset.map(lambda e: {"inputs": e["inputs"][:], "targets": e["targets"][:]})


def test_both_parallel_texts_are_masked():
    vocabulary = Bytes()
    pairs = [
        ("def mean(x)", "Return the mean of x."),
        ("ab", "a"),
        ("", "nothing"),
        ("a" * 20, "b" * 80),
        ("a" * 90, "b" * 90),
    ]
    examples = list(made(translation_lm, parallel(vocabulary, pairs), vocabulary).as_numpy_iterator())
    assert [e["inputs_trimmed"] for e in examples] == [0, 0, 38, 118]
    for example, (first, second) in zip(examples, [pair for pair in pairs if pair[0]], strict=True):
        types, weights, targets = example["types"], example["weights"], example["targets"]
        border = int((types == 0).sum())
        assert vocabulary.decode(targets[:border]) == first[: border - 1]
        assert vocabulary.decode(targets[border:]) == second[: len(types) - border - 1]
        for side, size in ((weights[:border], border - 1), (weights[border:], len(types) - border - 1)):
            assert side.sum() == max(round(0.15 * size), 1)
            assert side[-1] == 0
    assert [len(e["types"]) for e in examples] == [34, 5, 64, 64]
    assert int(examples[3]["types"].sum()) == 32


def test_parallel_texts_of_wordpiece_are_framed(wordpiece):
    (example,) = made(
        translation_lm, parallel(wordpiece, [("a row", "the tokens")]), wordpiece, whole_words=True
    ).as_numpy_iterator()
    cls, sep = wordpiece.cls_id, wordpiece.sep_id
    assert example["targets"].tolist() == [cls, *wordpiece.encode("a row"), sep, *wordpiece.encode("the tokens"), sep]
    assert example["types"].tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert example["weights"].sum() == 2


@pytest.mark.parametrize(
    ("objective", "parameters", "message"),
    [
        (masked_lm_with_next_sentence, {"neighbours": 1}, "neighbours=1 of masked_lm_with_next_sentence"),
        (masked_lm_with_next_sentence, {"pair_weight": 0.0}, "pair_weight=0.0"),
        (masked_lm_with_sentence_order, {"answers": ("yes", "yes")}, "has no token that distinguishes them"),
        (masked_lm_with_sentence_order, {"answers": "yes"}, "expected two words"),
        (masked_lm_with_sentence_order, {"lengths": {"inputs": 4, "targets": 4}}, "inputs_length=4 .* at least 5"),
        (translation_lm, {"rate": 2.0}, "rate=2.0 of translation_lm"),
    ],
)
def test_refused_before_any_work(tokenized, objective, parameters, message):
    with pytest.raises(UserError, match=message):
        made(objective, tokenized([[5, 6]]), Bytes(), **parameters)


def test_a_task_without_types_is_told_how_to_have_them(tokenized):
    with pytest.raises(UserError, match=r"missing: types\): use t2t.tasks.objectives.encoder_features, types=True"):
        masked_lm_with_sentence_order(tokenized([[5]]), LENGTHS, encoder_features(Bytes()))
