import io
import json
import threading
import zipfile
from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t.data import pipeline
from t2t.data.config import Data
from t2t.data.pipeline import batches
from t2t.errors import UserError

from .conftest import FIRST, lengths


def data(task, **more):
    return Data(
        **{
            "task": task,
            "inputs_length": 12,
            "targets_length": 8,
            "batch_size": 8,
            "shards": 4,
            "shuffle_buffer": 10,
            "seed": 3,
            **more,
        }
    )


def flat(batch):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(batch)]


def same(one, two):
    return all(
        len(flat(a)) == len(flat(b)) and all(x.tobytes() == y.tobytes() for x, y in zip(flat(a), flat(b), strict=True))
        for a, b in zip(one, two, strict=True)
    )


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


@seqio.map_over_dataset(num_seeds=1)
def noisy(example, seed):
    """Put a random token before the targets, as objectives put random choices in."""
    noise = tf.random.stateless_uniform([1], seed=seed, minval=1, maxval=90, dtype=tf.int32)
    return {**example, "targets": tf.concat([noise, example["targets"]], 0)}


@pytest.fixture
def mixture(tasks):
    tasks.numbered("small", 20, preprocessors=(noisy,))
    tasks.numbered("large", 60, first=1000, preprocessors=(noisy,))
    return tasks.mix("both", {"small": 1.0, "large": 2.0})


def test_same_global_batches_for_any_number_of_processes(mixture):
    asked = data(mixture, shards=8, batch_size=16)
    want = take(batches(asked, "encoder_decoder"), 6)
    for count in (2, 4, 8):
        hosts = [take(batches(asked, "encoder_decoder", process_index=i, process_count=count), 6) for i in range(count)]
        whole = [jax.tree.map(lambda *rows: np.concatenate(rows), *step) for step in zip(*hosts, strict=True)]
        assert same(want, whole)


def test_resumed_is_uninterrupted(mixture):
    asked = data(mixture)
    through = batches(asked, "encoder_decoder")
    take(through, 7)
    position = through.position()
    want = take(through, 15)
    assert not same(want[:1], take(batches(asked, "encoder_decoder"), 1))
    fresh = batches(asked, "encoder_decoder")
    fresh.restore(position)
    assert same(want, take(fresh, 15))
    through.restore(position)
    assert same(want, take(through, 15))


def test_shards_that_begin_while_others_are_opened_give_the_same(mixture):
    asked = data(mixture)
    want = take(batches(asked, "encoder_decoder"), 12)
    begun = batches(asked, "encoder_decoder", begin=True)
    before = begun.position()  # what was begun with counts as not handed out
    assert same(want[:7], take(begun, 7))
    position = begun.position()
    for place, rest in ((before, want[:5]), (position, want[7:])):
        fresh = batches(asked, "encoder_decoder", begin=True)
        fresh.restore(place)
        assert same(rest, take(fresh, 5))
    finite = [list(batches(asked, "decoder", repeat=False, begin=begin)) for begin in (False, True)]
    assert same(*finite)


def test_resumed_by_another_number_of_processes(mixture):
    asked = data(mixture)
    whole = batches(asked, "decoder")
    take(whole, 5)
    hosts = [batches(asked, "decoder", process_index=i, process_count=2) for i in range(2)]
    position = {}
    for host in hosts:
        take(host, 5)
        position |= host.position()
    assert sorted(position) == sorted(whole.position())
    want = take(whole, 6)
    one = batches(asked, "decoder")
    one.restore(position)
    assert same(want, take(one, 6))
    four = [batches(asked, "decoder", process_index=i, process_count=4) for i in range(4)]
    for host in four:
        host.restore(position)
    got = [jax.tree.map(lambda *r: np.concatenate(r), *step) for step in zip(*(take(h, 6) for h in four), strict=True)]
    assert same(want, got)


def test_position_can_take_back_what_was_handed_out(mixture):
    iterator = batches(data(mixture), "encoder_decoder")
    seen = take(iterator, 6)
    position = iterator.position(unused=2)
    want = [*seen[4:], *take(iterator, 3)]
    iterator.restore(position)
    assert same(want, take(iterator, 5))
    with pytest.raises(ValueError, match="taken back"):
        iterator.position(unused=pipeline.KEPT + 1)


def examples_in(batch):
    """Count the examples of the rows by their token, told apart by their segments."""
    tokens, found = batch.decoder, Counter()
    for ids, segments in zip(batch.targets, tokens.segments, strict=True):
        for segment in range(1, segments.max(initial=0) + 1):
            found[int(ids[segments == segment][-1])] += 1
    return found


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("count", [1, 2])
def test_one_pass_gives_every_example_once(tasks, pack, count):
    tasks.numbered("forty", 41)
    tasks.numbered("more", 23, first=1000)
    tasks.mix("all", {"forty": 1.0, "more": 3.0})
    found, sizes = Counter(), []
    for index in range(count):
        hosts = batches(
            data("all", pack=pack), "encoder_decoder", process_index=index, process_count=count, repeat=False
        )
        mine = list(hosts)
        sizes.append(len(mine))
        for batch in mine:
            assert batch.targets.shape == (8 // count, 8)
            found += examples_in(batch)
        with pytest.raises(StopIteration):
            next(hosts)
    assert found == Counter([*range(FIRST, FIRST + 41), *range(1000, 1023)])
    assert len(set(sizes)) == 1


def test_packed_rows_hold_the_examples_whole(tasks):
    tasks.numbered("forty", 40)
    for batch in batches(data("forty"), "encoder_decoder", repeat=False):
        for row in range(8):
            for segment in range(1, batch.decoder.segments[row].max() + 1):
                ids = batch.targets[row][batch.decoder.segments[row] == segment]
                inputs = batch.encoder.ids[row][batch.encoder.segments[row] == segment]
                assert set(ids) == set(inputs)
                assert (len(inputs), len(ids)) == lengths(ids[0] - FIRST)


def test_epochs_differ_and_come_again(tasks):
    tasks.numbered("twelve", 12, preprocessors=(noisy,))
    asked = data("twelve", pack=False, shards=1, batch_size=12, shuffle_buffer=1)

    def epochs(asked):
        return [batch.targets.copy() for batch in take(batches(asked, "encoder_decoder"), 3)]

    first = epochs(asked)
    for epoch in first:
        examples = [int(row[row >= FIRST][0]) for row in epoch]
        assert sorted(examples) == list(range(FIRST, FIRST + 12))
    order = [[int(row[row >= FIRST][0]) for row in epoch] for epoch in first]
    assert len(set(map(tuple, order))) == 3
    noise = [{int(row[row >= FIRST][0]): int(row[0]) for row in epoch} for epoch in first]
    assert noise[0] != noise[1] != noise[2]
    assert all(np.array_equal(a, b) for a, b in zip(first, epochs(asked), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, epochs(replace(asked, seed=4)), strict=True))


def test_shards_draw_their_own_noise(tasks):
    tasks.numbered("forty", 40, preprocessors=(noisy,))
    batch = next(batches(data("forty", pack=False, batch_size=32), "encoder_decoder"))
    noise = batch.targets[:, 0].reshape(4, 8)
    assert len(set(map(tuple, noise))) == 4


def test_in_order_without_shuffling(tasks):
    tasks.numbered("eight", 8)
    batch = next(batches(data("eight", pack=False, shuffle_buffer=0), "encoder_decoder"))
    # Shard s of 4 has examples s, s + 4.
    assert batch.targets[:, 0].tolist() == [FIRST + i for i in (0, 4, 1, 5, 2, 6, 3, 7)]


def test_files_are_shards_where_there_are_enough(tasks, tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.txt").write_text(f"{FIRST + i}\n{FIRST + i}\n")
    source = seqio.TextLineDataSource({"train": str(tmp_path / "*.txt")})
    tasks.source("files", source, features=("targets",), preprocessors=(_numbers,))
    batch = next(batches(data("files", pack=False, shuffle_buffer=0), "decoder"))
    assert [set(two) for two in batch.targets[:, 0].reshape(4, 2).tolist()] == [{FIRST + i} for i in range(4)]


def _numbers(dataset):
    return dataset.map(lambda line: {"targets": tf.reshape(tf.strings.to_number(line, tf.int32), [1])})


def test_trimmed_and_empty_are_counted(tasks):
    rows = [{"inputs": [7] * n, "targets": [8] * m} for n, m in ((13, 2), (12, 9), (3, 3), (4, 0))]
    tasks.add("lengths", rows)
    iterator = batches(data("lengths", shards=1), "encoder_decoder", repeat=False)
    (batch,) = list(iterator)
    counts = iterator.counts
    assert (counts.examples, counts.trimmed, counts.empty) == (4, 2, 1)
    assert batch.weights.sum() == 2 + 8 + 3


def test_counts_go_on_after_restore(tasks):
    tasks.numbered("forty", 40)
    first = batches(data("forty"), "encoder_decoder", repeat=False)
    take(first, 1)
    position = first.position()
    fresh = batches(data("forty"), "encoder_decoder", repeat=False)
    fresh.restore(position)
    for iterator in (first, fresh):
        assert len(list(iterator)) >= 1
        assert iterator.counts.examples == 40


def test_what_waits_to_be_packed_is_counted_as_trimmed_after_restore(tasks):
    """Examples come in blocks: most of one are cut already when its first rows are made."""
    tasks.add("long", [{"inputs": [7] * 13, "targets": [8, i + 1]} for i in range(60)])
    asked = data("long", shards=1, batch_size=1, shuffle_buffer=0)
    first = batches(asked, "encoder_decoder", repeat=False)
    take(first, 3)
    fresh = batches(asked, "encoder_decoder", repeat=False)
    fresh.restore(first.position())
    assert len(list(fresh)) == 57
    assert (fresh.counts.examples, fresh.counts.trimmed) == (60, 60)


def test_a_feature_ends_where_its_zeros_do_and_no_other_does(tasks):
    """Zeros within a feature are tokens, those at its end padding, beside longer and shorter examples in one block."""
    rows = [{"inputs": [5, 0, 6] + [0] * i, "targets": [9] * (1 + i % 5) + [0] * (i % 3)} for i in range(40)]
    tasks.add("zeros", rows)
    made = list(batches(data("zeros", pack=False, shuffle_buffer=0), "encoder_decoder", repeat=False))
    used = np.concatenate([np.asarray(batch.encoder.segments).sum(1) for batch in made])
    targets = np.concatenate([np.asarray(batch.weights).sum(1) for batch in made])
    assert used.tolist() == [3] * 40
    assert sorted(targets.tolist()) == sorted(1 + i % 5 for i in range(40))


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_kinds_get_their_rows(tasks, kind):
    rows = [{"inputs": [5, 6, 7 + i], "targets": [5, 9, 7 + i], "weights": [0, 1, 0]} for i in range(8)]
    tasks.add("masked", rows) if kind == "encoder" else tasks.numbered("plain", 8)
    name = "masked" if kind == "encoder" else "plain"
    batch = next(batches(data(name), kind))
    assert batch.targets.shape == (8, 12 if kind == "encoder" else 20)
    if kind == "encoder":
        assert set(batch.targets[batch.weights > 0]) == {9}
        assert batch.weights.sum() * 3 == (batch.encoder.segments > 0).sum()
    else:
        assert 0 < batch.weights.sum() < (batch.decoder.segments > 0).sum()


def test_targets_alone_for_a_decoder(tasks):
    tasks.add("text", [{"targets": [FIRST + i] * 20} for i in range(8)])
    batch = next(batches(data("text"), "decoder"))
    assert batch.decoder.prefix is None
    assert (batch.weights == 1).all()
    with pytest.raises(UserError, match="no feature 'inputs'"):
        batches(data("text"), "encoder_decoder")


def test_a_source_without_saved_state_is_replayed(tasks):
    def read(split, shuffle_files, seed=None):
        rows = [{"inputs": [FIRST + i], "targets": [FIRST + i]} for i in range(30)]
        return tf.data.Dataset.from_generator(
            lambda: iter(rows),
            output_signature={name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")},
        )

    tasks.source("generated", seqio.FunctionDataSource(read, ["train"]), preprocessors=(noisy,))
    asked = data("generated", shards=2)
    through = batches(asked, "encoder_decoder")
    take(through, 9)
    position = through.position()
    want = take(through, 5)
    fresh = batches(asked, "encoder_decoder")
    fresh.restore(position)
    assert same(want, take(fresh, 5))


@pytest.mark.parametrize("begin", [False, True])
def test_a_fault_of_the_source_comes_out_as_it_was_raised(tasks, begin):
    def read(split, shuffle_files, seed=None):
        def rows():
            for i in range(40):
                if i == 30:
                    raise UserError("texts.jsonl line 31: not JSON. Nearest: skip it with on_bad='skip'.")
                yield {"inputs": [FIRST + i], "targets": [FIRST + i]}

        return tf.data.Dataset.from_generator(
            rows, output_signature={name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")}
        )

    tasks.source("bad", seqio.FunctionDataSource(read, ["train"]))
    iterator = batches(data("bad", shards=1, shuffle_buffer=0, pack=False), "encoder_decoder", begin=begin)
    with pytest.raises(UserError) as raised:
        take(iterator, 10)
    assert str(raised.value) == "texts.jsonl line 31: not JSON. Nearest: skip it with on_bad='skip'."
    with pytest.raises(UserError):
        next(iterator)


def test_close_ends_the_thread(tasks):
    tasks.numbered("forty", 40)
    iterator = batches(data("forty"), "encoder_decoder")
    next(iterator)
    iterator.close()
    assert not any(thread.name == "t2t-batches" and thread is iterator._thread for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="closed"):
        next(iterator)


@pytest.mark.parametrize("begin", [False, True])
def test_a_shard_that_loses_all_its_examples_is_told(tasks, monkeypatch, begin):
    monkeypatch.setattr(pipeline, "PATIENCE", 0.5)
    told = tf.Variable(False)  # ends the search, which would go on in threads beside all later tests
    keep = lambda dataset: dataset.filter(lambda x: told | (x["targets"][0] % 4 != 1))  # noqa: E731
    tasks.numbered("filtered", 40, preprocessors=(keep,))
    with pytest.raises(UserError, match="leaves no examples of shard 1 of 4"):
        next(batches(data("filtered", shuffle_buffer=0), "encoder_decoder", begin=begin))
    told.assign(True)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"task": "fourty"}, r"unknown task 'fourty' \(--data.task\). Nearest: forty"),
        ({"split": "trian"}, r"no split 'trian' \(--data.split\); it has train, validation. Nearest: train"),
        ({"batch_size": 10}, "batch_size=10 is not a multiple of --data.shards=4. Nearest: 8"),
        ({"shards": 3, "batch_size": 9}, "shards=3 is not a multiple of the number of processes, 2. Nearest: 4"),
        ({"shards": 64, "batch_size": 64}, "its source has 40 examples, fewer than --data.shards=64. Nearest: 40"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_told_in_one_line(tasks, more, message):
    tasks.numbered("forty", 40)
    with pytest.raises(UserError, match=message) as raised:
        batches(data(**{"task": "forty", **more}), "encoder_decoder", process_count=2)
    assert "\n" not in str(raised.value)


def test_an_empty_source_is_told(tasks):
    tasks.add("nothing", [])
    with pytest.raises(UserError, match="task 'nothing', split 'train': its source has no examples"):
        batches(data("nothing"), "encoder_decoder")


def test_an_unknown_kind_is_told(tasks):
    tasks.numbered("forty", 40)
    with pytest.raises(UserError, match=r"unknown kind of model 'enc'. Nearest: encoder"):
        batches(data("forty"), "enc")


def test_an_encoder_is_told_which_variant_it_wants(tasks):
    tasks.numbered("words", 8)
    with pytest.raises(UserError, match=r"needs features inputs, targets and weights.*_fill_mask"):
        batches(data("words"), "encoder")
    masked = [{"inputs": [5], "targets": [5], "weights": [1]}] * 8
    tasks.add("words_fill_mask", masked)
    with pytest.raises(UserError, match="Its variant for encoders: words_fill_mask"):
        batches(data("words"), "encoder")
    with pytest.raises(UserError, match="is for encoders"):
        batches(data("words_fill_mask"), "decoder")


def test_text_that_was_not_tokenized_is_told(tasks):
    def read(split, shuffle_files, seed=None):
        return tf.data.Dataset.from_tensor_slices({"inputs": ["a"] * 8, "targets": ["b"] * 8})

    tasks.source("texts", seqio.FunctionDataSource(read, ["train"]))
    with pytest.raises(UserError, match="feature 'inputs' must be a sequence of ids, it is string"):
        batches(data("texts"), "encoder_decoder")


def test_a_position_of_other_data_is_refused(tasks):
    tasks.numbered("forty", 40)
    iterator = batches(data("forty"), "encoder_decoder")
    position = iterator.position()
    with pytest.raises(UserError, match="saved with seed=3, this run has 4"):
        batches(data("forty", seed=4), "encoder_decoder").restore(position)
    with pytest.raises(UserError, match="no entry shard_00000_of_00002"):
        batches(data("forty", shards=2), "encoder_decoder").restore(position)
    with pytest.raises(UserError, match="damaged"):
        iterator.restore({name: content[:100] for name, content in position.items()})


def test_a_position_of_an_older_pipeline_is_told_as_such(tasks):
    tasks.numbered("forty", 40)
    iterator = batches(data("forty"), "encoder_decoder")
    older = {}
    for name, content in iterator.position().items():
        files = zipfile.ZipFile(io.BytesIO(content))
        header = json.loads(files.read("header.json"))
        del header["cut"]
        with zipfile.ZipFile(out := io.BytesIO(), "w") as archive:
            archive.writestr("header.json", json.dumps(header))
            archive.writestr("examples.npz", files.read("examples.npz"))
        older[name] = out.getvalue()
    with pytest.raises(UserError, match="saved by an older t2t"):
        iterator.restore(older)


def test_a_function_without_a_seed_is_read_in_order(tasks):
    def read(split, shuffle_files):
        return tf.data.Dataset.range(16).map(lambda i: {"inputs": [i + 5], "targets": [i + 5]})

    tasks.source("seedless", seqio.FunctionDataSource(read, ["train"]), preprocessors=(lambda ds: ds,))
    want = take(batches(data("seedless"), "encoder_decoder"), 3)
    assert same(want, take(batches(data("seedless"), "encoder_decoder"), 3))
