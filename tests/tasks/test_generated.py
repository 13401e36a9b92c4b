import random

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.errors import UserError
from t2t.tasks.generated import GeneratedSource, copy_words, parity, reverse_words
from t2t.tasks.splitting import split_of
from t2t.vocabularies import Bytes

ANSWERS = {
    "reverse_words": ("reverse: ", lambda text: " ".join(text.split()[::-1])),
    "copy_words": ("copy: ", lambda text: text),
    "sort_words": ("sort words: ", lambda text: " ".join(sorted(text.split()))),
    "sort_numbers": ("sort: ", lambda text: " ".join(sorted(text.split(), key=int))),
    "add_numbers": ("add: ", lambda text: str(sum(map(int, text.split(" + "))))),
    "parity": ("parity: ", lambda text: "odd" if int(text) % 2 else "even"),
    "word_order": ("in order: ", lambda text: "yes" if text.split() == sorted(text.split()) else "no"),
}


def pairs(task, split, **options):
    dataset = task.get_dataset(None, split, shuffle=False, try_in_mem_cache=False, **options)
    return [
        (e["inputs_pretokenized"].decode(), e["targets_pretokenized"].decode()) for e in dataset.as_numpy_iterator()
    ]


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_are_right_and_splits_disjoint(name):
    task = tasks.find(name)
    prefix, answer = ANSWERS[name]
    inputs = {}
    for split in ("train", "validation", "test"):
        shard = seqio.ShardInfo(3, 50) if split == "train" else None
        found = pairs(task, split, shard_info=shard)
        assert len(found) == (2000 if split == "train" else 1000)
        assert all(text.startswith(prefix) and answer(text.removeprefix(prefix)) == target for text, target in found)
        inputs[split] = {text for text, _ in found}
    assert not inputs["train"] & inputs["validation"]
    assert not (inputs["train"] | inputs["validation"]) & inputs["test"]
    if tasks.describe(name).labels:
        share = sum(target == answer for _, target in found for answer in ["even", "yes"]) / 1000
        assert 0.4 < share < 0.65


@pytest.mark.parametrize("name", ANSWERS)
def test_the_variant_for_encoders_masks_the_answer(name):
    vocabulary = Bytes()
    lengths = {"inputs": 96, "targets": 96}
    plain = list(tasks.find(name).get_dataset(lengths, "test", shuffle=False).take(20).as_numpy_iterator())
    masked = list(
        tasks.find(f"{name}_fill_mask").get_dataset(lengths, "test", shuffle=False).take(20).as_numpy_iterator()
    )
    for one, other in zip(plain, masked, strict=True):
        assert other["inputs_pretokenized"] == one["inputs_pretokenized"]
        at = other["weights"] == 1
        assert set(other["inputs"][at]) == {vocabulary.mask_id}
        assert vocabulary.decode(other["targets"][at]) == one["targets_pretokenized"].decode()


def test_examples_are_a_function_of_seed_split_and_place():
    blocks = [GeneratedSource("g", reverse_words).read_block("train", block) for block in (7, 3, 7)]
    assert blocks[0] == blocks[2] != blocks[1]
    other = GeneratedSource("g", reverse_words, seed=1)
    assert other.read_block("train", 7) != blocks[0]
    assert all(split_of(e["inputs"].encode(), other.shares) == "train" for e in other.read_block("train", 7))
    assert GeneratedSource("h", reverse_words).read_block("train", 7) != blocks[0]
    random.seed(0)
    np.random.seed(0)
    assert GeneratedSource("g", reverse_words).read_block("train", 7) == blocks[0]


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1000])
def test_the_given_number_of_examples_over_any_number_of_shards(size):
    source = GeneratedSource("g", copy_words, sizes={"train": size})
    assert source.num_input_examples("train") == size
    whole = [e["inputs"] for e in source.get_dataset("train", shuffle=False).as_numpy_iterator()]
    parts = [
        [
            e["inputs"]
            for e in source.get_dataset("train", shuffle=False, shard_info=seqio.ShardInfo(i, 7)).as_numpy_iterator()
        ]
        for i in range(7)
    ]
    assert sum(map(len, parts)) == len(whole) == size
    assert [text for part in parts for text in part] == whole


def test_the_iterator_can_be_saved(tmp_path):
    def fresh():
        lengths = {"inputs": 32, "targets": 32}
        return iter(
            tasks.find("reverse_words").get_dataset(lengths, "train", seed=2, num_epochs=None, try_in_mem_cache=False)
        )

    iterator = fresh()
    for _ in range(300):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    ahead = [next(iterator)["inputs_pretokenized"].numpy() for _ in range(300)]
    restored = fresh()
    tf.train.Checkpoint(iterator=restored).restore(saved).assert_consumed()
    assert [next(restored)["inputs_pretokenized"].numpy() for _ in range(300)] == ahead


def test_what_cannot_be_generated_is_refused():
    with pytest.raises(UserError, match="size 0 of split 'train'"):
        GeneratedSource("g", parity, sizes={"train": 0})
    with pytest.raises(UserError, match="split 'dev'"):
        GeneratedSource("g", parity, sizes={"dev": 1})
    constant = GeneratedSource(
        "g", lambda draw: ("always the same", "x"), sizes={"train": 1, "validation": 1, "test": 1}
    )
    outcomes = []
    for split in ("train", "validation", "test"):
        try:
            outcomes.append(len(constant.read_block(split, 0)))
        except UserError as error:
            outcomes.append(str(error))
    assert outcomes.count(1) == 1
    assert sum("too few different inputs" in str(outcome) for outcome in outcomes) == 2
    with pytest.raises(UserError, match="split 'dev' of generated g: unknown split"):
        constant.get_dataset("dev")


def test_the_words_of_a_pair_tell_whether_it_is_reversed():
    source = tasks.find("reversed_pair_label").source
    rows = source.read_block("train", 0)
    for row in rows:
        first, second = row["inputs"].split(), row["second"].split()
        if row["targets"] == "yes":
            assert second == first[::-1]
        else:
            assert not set(first) & set(second)
    assert 0.4 < sum(row["targets"] == "yes" for row in rows) / len(rows) < 0.6
