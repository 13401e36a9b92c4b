"""Cached tasks: what is written, and that training from them is a function of (task, seed, step) that loses nothing."""

import functools
import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import jax
import numpy as np
import pytest
import seqio
import tensorflow as tf

from t2t import tasks as register
from t2t.data.cached import manifest as manifests
from t2t.data.cached.reading import ordered
from t2t.data.cached.writing import cache
from t2t.data.config import Data
from t2t.data.evaluation import evaluation_batches
from t2t.data.pipeline import batches
from t2t.errors import UserError
from t2t.tasks import sources
from t2t.tasks.objectives import span_corruption

from ..conftest import FIRST, Tasks
from . import larger_than_memory


@seqio.map_over_dataset(num_seeds=1)
def noisy(example, seed):
    """Put a random token before the targets, as objectives put random choices in."""
    noise = tf.random.stateless_uniform([1], seed=seed, minval=1, maxval=90, dtype=tf.int32)
    return {**example, "targets": tf.concat([noise, example["targets"]], 0)}


def data(task, out, **more):
    return Data(
        **{
            "task": task,
            "inputs_length": 12,
            "targets_length": 8,
            "batch_size": 16,
            "shards": 8,
            "shuffle_buffer": 10,
            "seed": 3,
            "cached": str(out),
            **more,
        }
    )


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def as_bytes(batch):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(batch)]


def joined(hosts, steps):
    """The global batches of several hosts, as bytes."""
    parts = zip(*(take(host, steps) for host in hosts), strict=True)
    return [as_bytes(jax.tree.map(lambda *rows: np.concatenate(rows), *step)) for step in parts]


def hosts_of(asked, count, kind="encoder_decoder", **more):
    return [batches(asked, kind, process_index=i, process_count=count, **more) for i in range(count)]


@pytest.fixture(scope="module")
def tasks():
    made = Tasks()
    yield made
    made.remove()


@pytest.fixture(scope="module")
def mixture(tasks, tmp_path_factory):
    """A mixture of two tasks with random choices, cached in several shards."""
    out = tmp_path_factory.mktemp("cache")
    tasks.numbered("small", 2_100, preprocessors=(noisy,))
    tasks.numbered("large", 3_205, first=10_000, preprocessors=(noisy,))
    tasks.mix("both", {"small": 1.0, "large": 2.0})
    small, large = cache("both", str(out), splits=["train"], shards=3)
    assert [len(it.splits["train"]) for it in (small, large)] == [3, 3]
    return "both", out


def test_the_same_batches_on_any_number_of_hosts_and_stopped_on_two_goes_on_on_four(mixture):
    asked = data(*mixture, shards=4)
    through = joined(hosts_of(asked, 1), 25)
    two = hosts_of(asked, 2)
    assert joined(two, 10) == through[:10]
    position = {name: place for host in two for name, place in host.position().items()}
    four = hosts_of(asked, 4)
    for host in four:
        host.restore(position)
    assert joined(four, 15) == through[10:]


def test_a_position_does_not_grow(mixture):
    iterator = batches(data(*mixture, shards=2), "encoder_decoder")
    next(iterator)
    early = max(map(len, iterator.position().values()))
    take(iterator, 60)
    late = max(map(len, iterator.position().values()))
    assert late < 1.5 * early < 15_000


def test_every_epoch_has_every_example_once_each_in_another_order(tasks, tmp_path):
    tasks.numbered("ids", 96, preprocessors=(noisy,))
    cache("ids", str(tmp_path), splits=["train"])
    hosts = hosts_of(data("ids", tmp_path, pack=False, shards=4), 2)
    orders, noise = [], []
    for _ in range(3):
        rows = np.concatenate([batch.targets for host in hosts for batch in take(host, 6)])
        ids = [int(row[row >= FIRST][0]) for row in rows]
        assert sorted(ids) == list(range(FIRST, FIRST + 96))
        orders.append(ids)
        noise.append({i: int(row[0]) for i, row in zip(ids, rows, strict=True)})
    assert orders[0] != orders[1] != orders[2]
    other = next(batches(data("ids", tmp_path, pack=False, shards=4, seed=4), "encoder_decoder"))
    assert [int(row[row >= FIRST][0]) for row in other.targets] != orders[0][:16]
    assert noise[0] != noise[1] != noise[2]


@pytest.mark.parametrize("pack", [True, False])
def test_one_pass_gives_every_example_once(tasks, tmp_path, pack):
    name = f"odd_{pack}"
    tasks.numbered(name, 101)
    cache(name, str(tmp_path), splits=["train"])
    found = Counter()
    for host in hosts_of(data(name, tmp_path, pack=pack, shards=2), 2, repeat=False):
        for batch in host:
            for ids, segments in zip(batch.targets, batch.decoder.segments, strict=True):
                found.update(int(ids[segments == s][-1]) for s in range(1, segments.max(initial=0) + 1))
    assert found == Counter(range(FIRST, FIRST + 101))


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 65, 1000])
def test_the_order_is_a_permutation(count):
    places = tf.data.Dataset.range(2 * count)
    order = list(places.map(lambda i: ordered(i % count, count, seed=7, epoch=i // count)).as_numpy_iterator())
    for epoch in (order[:count], order[count:]):
        assert sorted(epoch) == list(range(count))
    assert count < 64 or order[:count] != order[count:]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A task of texts with span corruption, made from a file."""
    place = tmp_path_factory.mktemp("corpus")
    file = place / "texts.txt"
    file.write_text("".join(f"text {i} " + "abcdefgh " * (i % 5 + 4) + "\n" for i in range(300)))
    register.add("cached_spans", source=sources.text(str(file)), targets="text", objective=span_corruption)
    made = cache("cached_spans", str(place / "cache"))
    yield place
    seqio.TaskRegistry.remove("cached_spans")
    assert made


def spans(place, **more):
    return data("cached_spans", place / "cache", **{"inputs_length": 100, "targets_length": 40, "shards": 2, **more})


def test_objectives_draw_anew_each_epoch_and_the_same_again(corpus):
    asked = spans(corpus, pack=False, batch_size=12)
    first = take(batches(asked, "encoder_decoder"), 50)
    assert [as_bytes(a) for a in first] == [as_bytes(b) for b in take(batches(asked, "encoder_decoder"), 50)]
    rows = Counter(row.tobytes() for batch in first for row in batch.encoder.ids)
    assert len(rows) > 0.9 * 50 * 12


def test_training_needs_the_source_no_more(corpus):
    asked = spans(corpus)
    want = as_bytes(next(batches(asked, "encoder_decoder")))
    file = corpus / "texts.txt"
    away = file.rename(corpus / "away.txt")
    try:
        register.add(
            "cached_spans",
            source=sources.text(str(file)),
            targets="text",
            objective=span_corruption,
            replace=True,
        )
        assert as_bytes(next(batches(asked, "encoder_decoder"))) == want
    finally:
        away.rename(file)


def test_texts_in_order_are_those_without_the_cache(corpus):
    """A source that can be cut anywhere is cut where it would be without a cache."""
    asked = spans(corpus, shuffle_buffer=0)
    want = take(batches(replace(asked, cached=None), "encoder_decoder"), 10)
    assert [as_bytes(batch) for batch in take(batches(asked, "encoder_decoder"), 10)] == [as_bytes(b) for b in want]


def test_evaluation_sees_what_it_sees_without_the_cache(corpus):
    asked = spans(corpus)
    for (batch, raws), (other, others) in zip(
        evaluation_batches(asked, "encoder_decoder"),
        evaluation_batches(replace(asked, cached=None), "encoder_decoder"),
        strict=True,
    ):
        assert as_bytes(batch) == as_bytes(other)
        assert [sorted(raw) for raw in raws] == [sorted(raw) for raw in others]


@pytest.mark.parametrize("marked", [False, True])
def test_training_in_order_sees_what_it_sees_without_the_cache(tasks, tmp_path, marked):
    """The seeds of what is done behind the cached steps are those without a cache, wherever these end."""
    name = f"seeds_{marked}"
    same = functools.partial(seqio.preprocessors.rekey, key_map={"inputs": "inputs", "targets": "targets"})
    steps = (same, same, *((seqio.CacheDatasetPlaceholder(),) if marked else ()), noisy)
    tasks.numbered(name, 50, preprocessors=steps)
    cache(name, str(tmp_path), splits=["train"])
    asked = data(name, tmp_path, shards=2, shuffle_buffer=0)
    want = take(batches(replace(asked, cached=None), "encoder_decoder"), 20)
    got = take(batches(asked, "encoder_decoder"), 20)
    assert [as_bytes(batch) for batch in got] == [as_bytes(batch) for batch in want]
    assert len({row.tobytes() for batch in got for row in batch.targets}) > 50


def test_a_position_belongs_to_the_cache(mixture):
    asked = data(*mixture, shards=2)
    place = batches(asked, "encoder_decoder").position()
    with pytest.raises(UserError, match="was saved with cached="):
        batches(replace(asked, cached=None), "encoder_decoder").restore(place)


def test_written_again_nothing_is_made_and_damage_is_mended(tasks, tmp_path):
    tasks.numbered("mended", 4_000)
    said = []
    (first,) = cache("mended", str(tmp_path), splits=["train"], shards=4, tell=said.append)
    directory = tmp_path / "mended"
    files = sorted(directory.iterdir())
    assert [file.name for file in files] == [
        "manifest.json",
        *(f"train-{i:05d}-of-00004.array_record" for i in range(4)),
    ]
    stamps = [file.stat().st_mtime_ns for file in files[1:]]
    cache("mended", str(tmp_path), splits=["train"], shards=4, tell=said.append)
    assert said == ["mended: 0 of 4 shards are complete", "mended: 4 of 4 shards are complete"]
    assert [file.stat().st_mtime_ns for file in files[1:]] == stamps
    assert manifests.verify(tmp_path, "mended") == first

    whole = files[2].read_bytes()
    files[2].write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"train-00001-of-00004.array_record: has [\d,]+ bytes, but was written with"):
        manifests.verify(tmp_path, "mended")
    with pytest.raises(UserError, match=r"train-00001-of-00004.array_record: has"):
        batches(data("mended", tmp_path), "encoder_decoder")
    files[2].write_bytes(whole[:-5] + b"12345")
    with pytest.raises(UserError, match=r"train-00001-of-00004.array_record: its content has changed"):
        manifests.verify(tmp_path, "mended")
    files[3].unlink()
    with pytest.raises(UserError, match=r"its content .*\(and 1 more\)"):
        manifests.verify(tmp_path, "mended")
    (second,) = cache("mended", str(tmp_path), splits=["train"], shards=4, tell=said.append)
    assert said[-1] == "mended: 2 of 4 shards are complete"
    assert second == first
    assert files[2].read_bytes() == whole


def test_cut_off_it_goes_on(tasks, tmp_path, monkeypatch):
    tasks.numbered("cut", 3_000)
    from t2t.data.cached import writing

    write, done = writing.write, []

    def failing(job):
        if len(done) == 2:
            (tmp_path / "cut" / ".train-00002.1.tmp").write_text("half")
            raise KeyboardInterrupt
        done.append(write(job))

    monkeypatch.setattr(writing, "write", failing)
    with pytest.raises(KeyboardInterrupt):
        cache("cut", str(tmp_path), splits=["train"], shards=3)
    with pytest.raises(UserError, match="2 of 3 shards are complete; run the same `t2t cache` again to make the rest"):
        batches(data("cut", tmp_path), "encoder_decoder")
    monkeypatch.setattr(writing, "write", write)
    said = []
    (made,) = cache("cut", str(tmp_path), splits=["train"], shards=3, tell=said.append)
    assert said == ["cut: 2 of 3 shards are complete"]
    assert made.splits["train"][:2] == tuple(done)
    assert not list((tmp_path / "cut").glob(".*"))


def test_a_directory_of_something_else_is_refused(tasks, tmp_path):
    tasks.numbered("other", 30)
    cache("other", str(tmp_path), splits=["train"], shards=2)
    with pytest.raises(UserError, match=r"\(--out\) is a cache of something else: 2 shards of split 'train', now 3"):
        cache("other", str(tmp_path), shards=3)
    (both,) = cache("other", str(tmp_path), splits=["validation"], shards=3)
    assert both.sharding == {"train": 2, "validation": 3}
    seqio.TaskRegistry.remove("other")
    same = functools.partial(seqio.preprocessors.rekey, key_map={"inputs": "inputs", "targets": "targets"})
    tasks.numbered("other", 30, preprocessors=(same,))
    with pytest.raises(UserError, match="is a cache of something else: steps"):
        cache("other", str(tmp_path), splits=["train"], shards=2)
    with pytest.raises(UserError, match=r"\(--data.cached\) was made from task 'other' with steps"):
        batches(data("other", tmp_path), "encoder_decoder")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": "nune"}, r"unknown task 'nune' \(--data.task\). Nearest: nine"),
        ({"splits": ["trian"]}, r"no split 'trian' \(--splits\); it has train, validation. Nearest: train"),
        ({"shards": 0}, "shards=0: must be at least 1"),
        ({"workers": 0}, "workers=0: must be at least 1"),
        ({"out": "gs://bucket/x"}, r"gs://bucket/x' \(cached\) is a URL"),
    ],
    ids=str,
)
def test_bad_input_is_told_in_one_line(tasks, tmp_path, more, message):
    if "nine" not in seqio.TaskRegistry.names():
        tasks.numbered("nine", 9)
    with pytest.raises(UserError, match=message) as raised:
        cache(**{"name": "nine", "out": str(tmp_path), **more})
    assert "\n" not in str(raised.value)


def test_a_refusal_for_want_of_beam_is_all_that_is_told(tasks, tmp_path, monkeypatch):
    if "nine" not in seqio.TaskRegistry.names():
        tasks.numbered("nine", 9)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    told = []
    with pytest.raises(UserError, match=r"is not installed: .* Nearest: --workers 1"):
        cache("nine", str(tmp_path), workers=2, tell=told.append)
    assert told == []


def test_what_is_not_cached_is_told(tasks, tmp_path):
    tasks.numbered("ten", 10)
    with pytest.raises(UserError, match="ten: no such cache; create it with `t2t cache`"):
        batches(data("ten", tmp_path), "encoder_decoder")
    cache("ten", str(tmp_path), splits=["train"])
    with pytest.raises(UserError, match=r"\(--data.cached\) has no split 'validation'; it has train"):
        batches(data("ten", tmp_path, split="validation"), "encoder_decoder")
    with pytest.raises(UserError, match=r"its source has 10 examples, fewer than --data.shards=16"):
        batches(data("ten", tmp_path, shards=16), "encoder_decoder")


@pytest.mark.slow
def test_the_memory_of_a_reader_is_that_of_its_index(tmp_path):
    """Reading a whole corpus at random does not bring it in. The process is its own, because threads of other tests take memory."""
    examples = 4800
    larger_than_memory.register(examples)
    (made,) = cache(larger_than_memory.TASK, str(tmp_path))
    size = sum(shard.size for shard in made.splits["train"])
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        before, after = process.submit(larger_than_memory.resident_while_reading, examples, str(tmp_path)).result()
    assert after - before < size / 3
