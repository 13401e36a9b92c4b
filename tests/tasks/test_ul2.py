from itertools import groupby

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.data.config import Data
from t2t.data.pipeline import batches
from t2t.errors import UserError
from t2t.tasks import ul2
from t2t.vocabularies import Bytes

PUBLISHED = {"r1": (3, 0.15), "r2": (8, 0.15), "x1": (3, 0.5), "x2": (8, 0.5), "x3": (64, 0.15), "x4": (64, 0.5)}
"""UL2, table 2: mean length of a span, share of noise."""
NAMES = [f"ul2_test_{key}" for key in ("r1", "r2", "s", "x1", "x2", "x3", "x4")]


def texts():
    random = np.random.default_rng(0)
    return ["".join(random.choice(list("abcdefgh "), 4000)) for _ in range(4)]


@pytest.fixture(scope="module")
def mixture():
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files=False, seed=None: tf.data.Dataset.from_tensor_slices({"text": texts()}),
        splits=["train"],
        num_input_examples={"train": 4},
    )
    yield tasks.mixture_of_denoisers("ul2_test", source=source, targets="text")
    seqio.MixtureRegistry.remove("ul2_test")
    for name in NAMES:
        seqio.TaskRegistry.remove(name)


def examples(name, lengths):
    return list(tasks.find(name).get_dataset(lengths, "train", shuffle=False, seed=0).as_numpy_iterator())


@pytest.mark.parametrize("key", ["r2", "x1", "x4"])
def test_denoisers_have_the_published_spans(mixture, key):
    vocabulary, (mean, rate) = Bytes(), PUBLISHED[key]
    lowest = vocabulary.size - vocabulary.extra_ids
    mode = vocabulary.encode("[NLU]" if key.startswith("r") else "[NLG]")
    hidden = kept = spans = 0
    length = 2048 if mean == 64 else 512
    found = examples(f"ul2_test_{key}", {"inputs": length, "targets": length})
    longest = max(len(example["targets"]) for example in found)
    for example in found:
        inputs, targets = example["inputs"].tolist(), example["targets"].tolist()
        assert inputs[:5] == mode
        assert max(len(inputs), len(targets)) <= length
        if len(targets) == longest:  # not the end of a text
            spans += sum(there for there, _ in groupby(targets, lambda i: i >= lowest))
            hidden += sum(i < lowest for i in targets) - 1
            kept += sum(i < lowest for i in inputs) - 6
    assert {**ul2.REGULAR, **ul2.EXTREME} == PUBLISHED
    assert hidden / spans == pytest.approx(mean, rel=0.15)
    assert hidden / (hidden + kept) == pytest.approx(rate, rel=0.05)


def test_the_suffix_of_s_is_a_quarter_and_uniform(mixture):
    shares = []
    for example in examples("ul2_test_s", {"inputs": 69, "targets": 64}):
        prefix, suffix = len(example["inputs"]) - 6, len(example["targets"])
        assert Bytes().decode(example["inputs"][:5]) == "[S2S]"
        shares += [suffix / (prefix + suffix)] if prefix + suffix == 64 else []
    assert np.mean(shares) == pytest.approx(0.25, abs=0.02)
    assert min(shares) < 0.05
    assert 0.45 < max(shares) < 0.5
    assert np.histogram(shares, 5, (0, 0.5))[0].min() > 0.1 * len(shares)


def test_the_mixture_fills_the_rows_of_a_decoder(mixture):
    """Nothing is cut and no window refused."""
    data = Data(
        task="ul2_test", inputs_length=128, targets_length=128, batch_size=32, shards=1, shuffle_buffer=0, pack=False
    )
    iterator = batches(data, "decoder")
    batch = next(iterator)
    iterator.close()
    assert iterator.counts.trimmed == 0
    modes = {Bytes().decode(row[:5]) for row in np.asarray(batch.targets)}
    assert modes == {"[NLU]", "[S2S]", "[NLG]"}


def test_all_denoisers_are_mixed_alike_unless_told_otherwise(mixture):
    assert list(mixture.rate_per_task_name) == NAMES
    assert len(set(mixture.rate_per_task_name.values())) == 1
    with pytest.raises(UserError, match="rate of 'y' in mixture 'other': the denoisers are r1, r2, s, x1, x2, x3, x4"):
        tasks.mixture_of_denoisers("other", source=tasks.find(NAMES[0]).source, targets="text", rates={"y": 1})
    with pytest.raises(UserError, match="a task of that name already exists"):
        tasks.mixture_of_denoisers("ul2_test", source=tasks.find(NAMES[0]).source, targets="text")
