"""Tasks of vectors of texts: several texts in a row, each a segment of its own."""

import json

import pytest

from t2t import tasks
from t2t.data.answers import check_model, check_objective
from t2t.data.config import Data
from t2t.data.pipeline import batches, evaluation_batches
from t2t.errors import UserError
from t2t.models import t5
from t2t.objectives import Contrastive, CrossEntropy
from t2t.tasks import sources
from t2t.vocabularies import Bytes, WordPiece
from tests.models.tiny import config

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "q", "a", "b", "c", "d", ":"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))


def jsonl(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.jsonl(tmp_path / "a.jsonl")


def words(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    return WordPiece(path=str(tmp_path / "vocab.txt"))


def found(name, length=32, negatives=2):
    data = Data(task=name, inputs_length=length, batch_size=2)
    return next(iter(evaluation_batches(data, "encoder", convert=Contrastive(negatives=negatives).converter)))


def test_texts_of_a_row_are_segments_with_their_own_special_tokens(tmp_path):
    rows = [
        {"q": "q a", "p": "b c d", "n": ["", "a", "b b"]},
        {"q": "q", "p": "d", "n": []},
    ]
    tasks.add_retrieval(
        "vectors_words",
        source=jsonl(tmp_path, rows),
        query="q",
        positive="p",
        negatives="n",
        max_negatives=2,
        text_prefix="a: ",
        vocabulary=words(tmp_path),
        replace=True,
    )
    batch, raws = found("vectors_words")
    at = {word: i for i, word in enumerate(WORDS)}
    texts = [["q", "a"], ["a", ":", "b", "c", "d"], ["a", ":", "a"], ["a", ":", "b", "b"]]
    framed = [[at["[CLS]"], *[at[word] for word in text], at["[SEP]"]] for text in texts]
    size = sum(map(len, framed))
    assert batch.encoder.ids[0, :size].tolist() == [i for text in framed for i in text]
    assert batch.encoder.segments[0, :size].tolist() == [n for n, text in enumerate(framed, 1) for _ in text]
    assert batch.encoder.positions[0, :size].tolist() == [i for text in framed for i in range(len(text))]
    assert batch.encoder.segments[1].tolist() == [1] * 3 + [2] * 5 + [0] * 24
    assert batch.extra["texts"].tolist() == [[4], [2]]
    assert batch.weights.sum(axis=1).tolist() == [1, 1]
    assert [text.decode() for text in raws[0]["texts_pretokenized"]] == ["q a", "a: b c d", "a: a", "a: b b"]


def test_texts_that_do_not_fit_lose_the_ends_of_the_longest(tmp_path):
    rows = [{"q": "abc", "p": "abcdefghij", "n": "abcdefgh"}]
    source = jsonl(tmp_path, rows)
    tasks.add_retrieval("vectors_long", source=source, query="q", positive="p", negatives="n", replace=True)
    batch, (raw,) = found("vectors_long", 17)
    sizes = [int((batch.encoder.segments[0] == number).sum()) for number in (1, 2, 3)]
    assert sizes == [4, 6, 6]  # with EOS
    assert raw["inputs_trimmed"] == 8
    assert batch.encoder.ids[0, 9] == Bytes().eos_id
    with pytest.raises(UserError, match="inputs_length=5 is too short for 3 texts in a row: it needs at least 6"):
        found("vectors_long", 5)


def test_an_example_has_a_row_of_its_own_whatever_the_packing(tmp_path):
    source = jsonl(tmp_path, [{"q": "a", "p": "b"}] * 4)
    tasks.add_retrieval("vectors_short", source=source, query="q", positive="p", replace=True)
    data = Data(task="vectors_short", inputs_length=32, batch_size=2, shards=1, pack=True, seed=0)
    rows = batches(data, "encoder", convert=Contrastive().converter)
    try:
        assert next(rows).encoder.segments.max(axis=1).tolist() == [2] * 2
    finally:
        rows.close()


def test_what_does_not_fit_together_is_refused(tmp_path):
    row = {"q": "a", "p": "b", "n": ["c", "d"]}
    source = jsonl(tmp_path, [row])
    tasks.add_retrieval(
        "vectors_hard", source=source, query="q", positive="p", negatives="n", max_negatives=2, replace=True
    )
    with pytest.raises(UserError, match=r"2 hard negatives, but the objective compares 1 .*Nearest: 2"):
        found("vectors_hard", negatives=1)
    data = Data(task="vectors_hard", inputs_length=32, batch_size=2)
    with pytest.raises(UserError, match=r"trains vectors of texts, but objective CrossEntropy .*Contrastive"):
        check_objective(data, "CrossEntropy", [extra.name for extra in CrossEntropy().extras])
    check_objective(data, "Contrastive", [extra.name for extra in Contrastive().extras])
    check_model(data, config("bert"))
    with pytest.raises(UserError, match="is for encoders"):
        next(iter(evaluation_batches(data, t5.t5(num_layers=1, d_model=8, num_heads=2, d_ff=8).kind)))
    other = Data(task="reverse_words_fill_mask", inputs_length=32, batch_size=8)
    with pytest.raises(UserError, match="has no feature 'texts', which the objective needs"):
        batches(other, "encoder", convert=Contrastive().converter)
    with pytest.raises(UserError, match="max_negatives=0"):
        tasks.add_retrieval("vectors_none", source=source, query="q", positive="p", max_negatives=0)
