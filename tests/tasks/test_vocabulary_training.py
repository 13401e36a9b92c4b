import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.errors import UserError
from t2t.tasks.generated import GeneratedSource, reverse_words, sort_words
from t2t.tasks.vocabulary_training import task_texts, train_sentencepiece, train_vocabulary, train_wordpiece

TEXTS = [f"number {n} of the texts: {n * 7} words, über {n % 13} lines" for n in range(500)]


@pytest.fixture(scope="module", autouse=True)
def registered():
    for name, make in (("tv_one", reverse_words), ("tv_two", sort_words)):
        source = GeneratedSource(name, make, sizes={"train": 400, "test": 50})
        tasks.add(name, source=source, prefix=f"{name}: ", inputs="inputs", targets="targets", replace=True)
    tasks.mix("tv_both", ["tv_one", "tv_two"], replace=True)


@pytest.mark.parametrize("kind", ["unigram", "bpe", "wordpiece"])
def test_a_vocabulary_of_a_tasks_texts(kind, tmp_path):
    vocabulary = train_vocabulary("tv_one", size=460, out=tmp_path / "made" / "vocab.out", kind=kind, extra_ids=100)
    assert vocabulary.extra_ids == 100
    if kind == "wordpiece":
        assert vocabulary.size <= 460
    else:
        assert vocabulary.size == 460
        assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    text = "tv_one: cat dog sun"
    assert "".join(vocabulary.decode(vocabulary.encode(text)).split()) == "".join(text.split())
    assert len(vocabulary.encode("cat dog sun")) < len("cat dog sun")
    assert not list((tmp_path / "made").glob("*.partial"))


def test_sentencepiece_falls_back_to_bytes(tmp_path):
    vocabulary = train_sentencepiece(TEXTS, size=460, out=tmp_path / "a.model", extra_ids=100)
    assert vocabulary.decode(vocabulary.encode("日本 ☃")) == "日本 ☃"
    assert vocabulary.sentinel(0) == vocabulary.size - 1 == 459


def test_texts_of_a_task_a_mixture_and_a_plain_seqio_task():
    one = list(task_texts("tv_one", split="test"))
    assert len(one) == 100
    assert sum(text.startswith("tv_one: ") for text in one) == 50
    assert len(list(task_texts("tv_both", examples=30))) == 120
    assert list(task_texts("tv_one", examples=30)) == list(task_texts("tv_one", examples=30))
    seqio.TaskRegistry.remove("tv_plain")
    rows = {"a": ["x", "y"], "n": [1, 2], "many": [["p", "q"], ["r", "s"]]}
    seqio.TaskRegistry.add(
        "tv_plain",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(rows), splits=["train"]
        ),
        output_features={},
    )
    assert sorted(task_texts("tv_plain")) == ["p", "q", "r", "s", "x", "y"]


def test_what_cannot_be_trained_is_refused_in_one_line(tmp_path):
    (tmp_path / "there").touch()
    out = tmp_path / "out"
    for call, message in [
        (lambda: train_vocabulary("tv_on", size=500, out=out), "'tv_on'. Nearest: tv_one"),
        (lambda: train_vocabulary("tv_one", size=500, out=out, kind="unigrm"), "'unigrm'.* Nearest: unigram"),
        (lambda: train_vocabulary("tv_one", size=500, out=out, split="dev"), "split 'dev'"),
        (lambda: train_vocabulary("tv_one", size=500, out=tmp_path / "there"), "exists already"),
        (lambda: train_sentencepiece(TEXTS, size=300, out=out), r"vocabulary size 300 .*above 359"),
        (lambda: train_sentencepiece(TEXTS, size=90_000, out=out), r"vocabulary size 90000 .*allow at most \d+"),
        (lambda: train_sentencepiece(["", " \n"], size=500, out=out), "no text"),
        (lambda: train_sentencepiece(TEXTS, size=500, out=out, model="word"), "'word'"),
        (lambda: train_wordpiece(TEXTS, size=10, out=out), "vocabulary size 10: .* need"),
        (lambda: train_wordpiece([], size=100, out=out), "no text"),
        (lambda: train_wordpiece(TEXTS, size=100, out=tmp_path / "a.json"), r"name it \.txt"),
        (lambda: train_wordpiece(TEXTS, size=100, out=tmp_path / "there" / "a"), "cannot be written"),
    ]:
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_size_said_to_be_possible_is(tmp_path):
    with pytest.raises(UserError) as caught:
        train_sentencepiece(TEXTS, size=90_000, out=tmp_path / "a.model", extra_ids=10)
    most = int(str(caught.value).rstrip(".").split()[-1])
    assert train_sentencepiece(TEXTS, size=most, out=tmp_path / "a.model", extra_ids=10).size == most
