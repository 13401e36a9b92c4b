import jax
import numpy as np
import pytest

from t2t.data.config import Data
from t2t.data.pipeline import evaluation_batches, inspect
from t2t.errors import UserError

from .conftest import FIRST


def data(task, **more):
    return Data(
        **{"task": task, "split": "validation", "inputs_length": 6, "targets_length": 4, "batch_size": 8, **more}
    )


def test_every_example_once_in_order_with_its_texts(tasks):
    tasks.numbered("nineteen", 19)
    got = list(evaluation_batches(data("nineteen"), "encoder_decoder"))
    assert [len(raws) for _, raws in got] == [8, 8, 3]
    texts = [raw["targets_pretokenized"].decode() for _, raws in got for raw in raws]
    assert texts == [f"text {FIRST + i}" for i in range(19)]
    for batch, raws in got:
        assert batch.targets.shape == (8, 4)
        for row, raw in enumerate(raws):
            ids = batch.targets[row][batch.weights[row] > 0]
            np.testing.assert_array_equal(ids, raw["targets"])
        assert not batch.weights[len(raws) :].any()
        assert not batch.encoder.segments[len(raws) :].any()


def test_hosts_share_each_batch(tasks):
    tasks.numbered("nineteen", 19)
    whole = list(evaluation_batches(data("nineteen"), "decoder"))
    hosts = [list(evaluation_batches(data("nineteen"), "decoder", process_index=i, process_count=4)) for i in range(4)]
    assert {len(host) for host in hosts} == {3}
    for step, (batch, raws) in enumerate(whole):
        parts = [host[step] for host in hosts]
        joined = jax.tree.map(lambda *rows: np.concatenate(rows), *(part for part, _ in parts))
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(joined), jax.tree.leaves(batch), strict=True))
        assert [raw["targets_pretokenized"] for _, part in parts for raw in part] == [
            raw["targets_pretokenized"] for raw in raws
        ]


def test_the_first_examples_of_each_task_of_a_mixture(tasks):
    tasks.numbered("low", 9)
    tasks.numbered("up", 9, first=1000)
    tasks.mix("both", {"low": 1.0, "up": 5.0})
    iterator = evaluation_batches(data("both"), "encoder_decoder", 4, examples=3)
    tokens = [raw["targets"][0] for _, raws in iterator for raw in raws]
    assert tokens == [FIRST, FIRST + 1, FIRST + 2, 1000, 1001, 1002]
    assert iterator.counts.examples == 6


def test_trimming_is_counted_and_the_raw_example_is_whole(tasks):
    tasks.add("long", [{"inputs": [7] * 9, "targets": [8] * 2}, {"inputs": [7] * 6, "targets": []}])
    iterator = evaluation_batches(data("long"), "encoder_decoder")
    ((batch, raws),) = list(iterator)
    assert (iterator.counts.trimmed, iterator.counts.empty) == (1, 1)
    assert len(raws[0]["inputs"]) == 9
    assert batch.encoder.ids[0].tolist() == [7] * 6


def test_shards_do_not_matter_to_evaluation(tasks):
    tasks.numbered("three", 3)
    ((_, raws),) = list(evaluation_batches(data("three", shards=64, batch_size=10), "encoder_decoder"))
    assert len(raws) == 3


@pytest.mark.parametrize(
    ("more", "asked", "message"),
    [
        ({"split": "test"}, {}, "no split 'test'"),
        ({}, {"batch_size": 0}, "batch_size=0 is not a positive multiple"),
        ({}, {"batch_size": 6, "process_count": 4}, "batch_size=6 is not a positive multiple"),
        ({}, {"examples": 0}, "examples=0"),
    ],
)
def test_bad_input(tasks, more, asked, message):
    tasks.numbered("nineteen", 19)
    with pytest.raises(UserError, match=message):
        evaluation_batches(data("nineteen", **more), "encoder_decoder", **asked)


def test_an_empty_split_is_told(tasks):
    tasks.numbered("filtered", 9, preprocessors=(lambda dataset: dataset.filter(lambda x: x["targets"][0] < 0),))
    with pytest.raises(UserError, match="'filtered', split 'validation' has no examples"):
        next(evaluation_batches(data("filtered"), "encoder_decoder"))


def test_report_counts_lengths_and_waste(tasks):
    tasks.add("some", [{"inputs": [5] * n, "targets": [6] * m} for n, m in ((2, 2), (4, 2), (9, 2), (3, 0))])
    report = inspect(data("some"), "encoder_decoder")
    assert report.examples == 4
    assert report.mean_lengths == {"inputs": 4.5, "targets": 1.5}
    assert report.max_lengths == {"inputs": 9, "targets": 2}
    assert (report.trimmed, report.empty) == (0.25, 0.25)
    # Three rows of 10 places hold 2 + 2, 4 + 2, 6 + 2; the first two examples share a row.
    assert report.padding == pytest.approx(1 - 18 / 30)
    assert report.padding_packed == pytest.approx(1 - 18 / 20)
    assert inspect(data("some"), "encoder_decoder", examples=2).examples == 2
