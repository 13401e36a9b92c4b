import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.errors import UserError
from t2t.tasks import vocabulary_training
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
        (lambda: train_vocabulary("tv_one", size=500, out=tmp_path / "there"), "already exists"),
        (lambda: train_sentencepiece(TEXTS, size=300, out=out), r"vocabulary size 300 .*above 359"),
        (lambda: train_sentencepiece(TEXTS, size=90_000, out=out), r"vocabulary size 90000 .*allow at most \d+"),
        (lambda: train_sentencepiece(["", " \n"], size=500, out=out), "no text"),
        (lambda: train_sentencepiece(TEXTS, size=500, out=out, model="word"), "'word'"),
        (lambda: train_vocabulary("tv_one", size=500, out=out, examples=0), r"examples 0 \(--examples\)"),
        (lambda: train_sentencepiece(TEXTS, size=362, out=out), r"vocabulary size 362 .*characters .* at least \d+\.$"),
        (lambda: train_sentencepiece(["a"], size=9000, out=out), r"vocabulary size 9000 .*allow at most \d+\.$"),
        (lambda: train_wordpiece(TEXTS, size=10, out=out), r"vocabulary size 10 \(--size\): .* need"),
        (lambda: train_wordpiece(TEXTS, size=-3, out=out), r"vocabulary size -3 \(--size\): must be 6 or more"),
        (lambda: train_wordpiece(TEXTS, size=50, out=out, extra_ids=100), "must be 106 or more"),
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


@pytest.mark.parametrize("model", ["unigram", "bpe"])
def test_long_texts_are_trained_on_like_short_ones(model, tmp_path):
    # One line of more than 64 KB, which SentencePiece leaves out.
    long = " ".join(TEXTS + [f"number {n} of the words: {n * 7} texts" for n in range(1500)])
    assert len(long) > 1 << 16
    whole = train_sentencepiece([long], size=460, out=tmp_path / "long.model", model=model)
    text = "number 7 of the texts"
    assert len(whole.encode(text)) <= 12  # of 21 characters


def test_a_long_text_without_a_space_is_trained_on(tmp_path):
    texts = ["abcdefgh" * 9000, *TEXTS]
    made = train_sentencepiece(texts, size=460, out=tmp_path / "a.model", model="bpe")
    assert len(made.encode("abcdefghabcdefgh")) < 16


def test_lines_are_cut_at_spaces_and_lose_nothing(monkeypatch):
    monkeypatch.setattr(vocabulary_training, "_LONGEST", 10)
    for line in ("ab cd ef gh ij kl", "abcdefghijklmnopqrstuv", "ab cdefghijklmnopqrstuv w", "é" * 25, " x ", ""):
        parts = list(vocabulary_training._cut(line.strip()))
        assert "".join("".join(parts).split()) == "".join(line.split())
        assert all(0 < len(part) <= 10 for part in parts)
    assert list(vocabulary_training._cut("ab cd ef gh ij kl")) == ["ab cd ef", "gh ij kl"]


def test_what_is_not_read_as_it_stands_is_counted(tmp_path, caplog):
    kept = train_sentencepiece([*TEXTS, "\u2585 qqq qqq"] * 2, size=460, out=tmp_path / "a.model")
    assert "2 lines contain the character U+2585" in caplog.text
    assert kept.size == 460
    seqio.TaskRegistry.remove("tv_broken")
    rows = {"a": [b"good", b"b\xffd"]}
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(rows), splits=["train"]
    )
    seqio.TaskRegistry.add("tv_broken", source=source, output_features={})
    assert list(task_texts("tv_broken")) == ["good", "bd"]
    assert "task tv_broken: 1 texts are not valid UTF-8" in caplog.text


def test_more_than_a_thousand_characters_are_kept_where_there_is_room(tmp_path):
    characters = [chr(0x4E00 + n) for n in range(1500)]
    made = train_wordpiece([" ".join(characters)] * 3, size=3600, out=tmp_path / "a.txt")
    assert made.unk_id not in made.encode(" ".join(characters))
