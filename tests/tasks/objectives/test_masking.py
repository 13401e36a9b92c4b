from functools import partial

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives import encoder_features, fill_mask, masked_lm
from t2t.vocabularies import Bytes

LENGTHS = {"inputs": 48, "targets": 48, "weights": 48}


def masked(dataset, vocabulary, *, seed=0, lengths=LENGTHS, **parameters):
    with seqio.utils.map_seed_manager(seed):
        made = masked_lm(dataset, lengths, encoder_features(vocabulary), **parameters)
    return list(made.as_numpy_iterator())


def test_the_text_is_the_targets(vocabulary, texts, tokenized):
    rows = [vocabulary.encode(text) for text in texts]
    examples = masked(tokenized(rows), vocabulary)
    assert all(e["targets"][-1] == vocabulary.eos_id for e in examples)
    assert [i for e in examples for i in e["targets"][:-1]] == [i for row in rows for i in row]
    for example in examples:
        inputs, targets, weights = (example[k] for k in ("inputs", "targets", "weights"))
        assert len(inputs) == len(targets) == len(weights) <= 48
        assert (inputs[weights == 0] == targets[weights == 0]).all()
        assert weights[-1] == 0
        assert weights.sum() == max(round(0.15 * (len(targets) - 1)), 1)


def test_eighty_ten_ten(tokenized):
    vocabulary = Bytes()
    random = np.random.default_rng(0)
    rows = random.integers(3, 259, (60, 470))
    examples = masked(tokenized(rows), vocabulary, lengths={"inputs": 471, "targets": 471})
    chosen = [(i, t) for e in examples for i, t, w in zip(e["inputs"], e["targets"], e["weights"], strict=True) if w]
    total = len(chosen)
    assert total == 60 * round(0.15 * 470)
    hidden = sum(i == vocabulary.mask_id for i, _ in chosen)
    same = sum(i == t for i, t in chosen)
    drawn = [i for i, t in chosen if i not in (t, vocabulary.mask_id)]
    bound = 5 * np.sqrt(total)
    assert abs(hidden - 0.8 * total) < 0.4 * bound
    assert abs(same - (0.1 + 0.1 / 256) * total) < 0.3 * bound
    assert abs(len(drawn) - 0.1 * 255 / 256 * total) < 0.3 * bound
    assert all(3 <= i < 259 for i in drawn)
    assert len(set(drawn)) > 150


def test_wordpiece_is_framed_and_special_tokens_stay(wordpiece, tokenized):
    text = "the model reads zebra tokens of the row"
    ids = wordpiece.encode(text)
    assert wordpiece.unk_id in ids
    drawn = set()
    for example in masked(tokenized([ids] * 30), wordpiece, rate=1.0, masked=0.4, replaced=0.5):
        inputs, targets, weights = (example[k].tolist() for k in ("inputs", "targets", "weights"))
        assert targets == [wordpiece.cls_id, *ids, wordpiece.sep_id]
        assert (inputs[0], inputs[-1]) == (wordpiece.cls_id, wordpiece.sep_id)
        assert weights == [int(i not in (wordpiece.cls_id, wordpiece.sep_id, wordpiece.unk_id)) for i in targets]
        drawn |= {i for i, t in zip(inputs, targets, strict=True) if i not in (t, wordpiece.mask_id)}
    assert len(drawn) > 5
    assert min(drawn) == wordpiece.mask_id + 1  # after [PAD] [unused0] [unused1] [UNK] [CLS] [SEP] [MASK]


def test_long_wordpiece_texts_are_windows_with_a_frame_each(wordpiece, tokenized):
    ids = wordpiece.encode("the model reads a row of tokens and writes " * 9)
    examples = masked(tokenized([ids]), wordpiece, lengths={"inputs": 20, "targets": 20})
    assert [i for e in examples for i in e["targets"][1:-1]] == ids
    assert all(len(e["targets"]) <= 20 for e in examples)


def test_nothing_to_mask(wordpiece, tokenized):
    (example,) = masked(tokenized([[wordpiece.unk_id]]), wordpiece)
    assert example["weights"].sum() == 0
    assert masked(tokenized([[]]), wordpiece) == []


def test_the_seed_decides(texts, tokenized):
    dataset = tokenized([Bytes().encode(text) for text in texts])
    first, again, other = ([e["inputs"].tolist() for e in masked(dataset, Bytes(), seed=s)] for s in (1, 1, 2))
    assert first == again != other


def filled(vocabulary, inputs, targets, lengths=LENGTHS):
    ids = {"inputs": vocabulary.encode(inputs), "targets": vocabulary.encode(targets)}
    dataset = tf.data.Dataset.from_tensors({**ids, "targets_pretokenized": targets})
    (example,) = fill_mask(dataset, lengths, encoder_features(vocabulary)).as_numpy_iterator()
    return example


def test_the_answer_stands_behind_the_inputs():
    vocabulary = Bytes()
    example = filled(vocabulary, "reverse: ab", "ba")
    question, answer = vocabulary.encode("reverse: ab"), [*vocabulary.encode("ba"), vocabulary.eos_id]
    assert example["inputs"].tolist() == question + [vocabulary.mask_id] * 3
    assert example["targets"].tolist() == question + answer
    assert example["weights"].tolist() == [0] * len(question) + [1] * 3
    assert example["targets_pretokenized"] == b"ba"
    assert example["inputs_trimmed"] == 0


def test_the_answer_of_a_wordpiece_encoder(wordpiece):
    example = filled(wordpiece, "the model", "a row")
    question = [wordpiece.cls_id, *wordpiece.encode("the model"), wordpiece.sep_id]
    assert example["inputs"].tolist() == question + [wordpiece.mask_id] * 3
    assert example["targets"].tolist() == [*question, *wordpiece.encode("a row"), wordpiece.sep_id]
    assert example["weights"].tolist() == [0] * 4 + [1] * 3


def test_the_answer_is_kept_and_what_the_inputs_lose_is_counted():
    vocabulary = Bytes()
    example = filled(vocabulary, "a" * 60, "answer")
    assert len(example["inputs"]) == 48
    assert example["weights"].sum() == 7
    assert vocabulary.decode(example["targets"][-7:]) == "answer"
    assert example["inputs_trimmed"] == 60 - 41


def test_an_encoder_task_end_to_end(texts):
    vocabulary = Bytes()
    task = seqio.Task(
        "masked_texts",
        seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices({"targets": texts}), ["train"]
        ),
        encoder_features(vocabulary),
        [seqio.preprocessors.tokenize, partial(masked_lm, rate=0.3)],
    )
    examples = list(task.get_dataset(LENGTHS, shuffle=False, seed=0).as_numpy_iterator())
    assert sum(len(e["targets"]) - 1 for e in examples) == sum(map(len, texts))


@pytest.mark.parametrize(
    ("vocabulary", "lengths", "parameters", "named"),
    [
        (Bytes(extra_ids=0), LENGTHS, {}, "no mask"),
        (Bytes(), LENGTHS, {"rate": 0.0}, "rate=0.0"),
        (Bytes(), LENGTHS, {"rate": float("nan")}, "rate=nan"),
        (Bytes(), LENGTHS, {"masked": float("nan")}, "masked=nan"),
        (Bytes(), LENGTHS, {"replaced": float("inf")}, "replaced=inf"),
        (Bytes(), LENGTHS, {"masked": 0.8, "replaced": 0.3}, "replaced=0.3"),
        (Bytes(), {"inputs": 1, "targets": 1}, {}, "inputs_length=1"),
    ],
)
def test_refused_before_any_work(tokenized, vocabulary, lengths, parameters, named):
    with pytest.raises(UserError, match=named):
        masked(tokenized([[3, 4]]), vocabulary, lengths=lengths, **parameters)
