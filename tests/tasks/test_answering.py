"""Words, tags and answers as lists, which is how data sets of JSON lines and Parquet have them."""

import json

import pytest

from t2t import tasks
from t2t.data.config import Data
from t2t.data.pipeline import evaluation_batches
from t2t.errors import UserError
from t2t.tasks import sources


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))


def jsonl(tmp_path, rows):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.jsonl(tmp_path / "a.jsonl")


def raws(name):
    batches = evaluation_batches(Data(task=name, inputs_length=64, targets_length=64, batch_size=4), "encoder")
    return [raw for _, some in batches for raw in some]


@pytest.mark.parametrize("tags", [[1, 0], ["B-PER", "O"], "B-PER O"])
def test_words_and_tags_are_lists_or_texts(tags, tmp_path):
    words = "Ann sleeps" if isinstance(tags, str) else ["Ann", "sleeps"]
    source = jsonl(tmp_path, [{"tokens": words, "ner": tags, "other": {"deep": [[1]]}}])
    tasks.add_tagging("an_tags", source=source, words="tokens", tags="ner", labels=["O", "B-PER"], replace=True)
    (raw,) = raws("an_tags")
    assert raw["inputs_pretokenized"] == b"Ann sleeps"
    assert [t for t, w in zip(raw["targets"], raw["weights"], strict=True) if w] == [1, 0]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"tokens": ["Ann"], "ner": [2]},
            "field 'ner': 2 is not the number of a label; the labels O, B-PER have the numbers 0 to 1",
        ),
        ({"tokens": ["Ann"], "ner": [-100]}, "-100 is not the number of a label"),
        ({"tokens": ["Ann", "x"], "ner": [1]}, "1 labels for 2 words"),
        ({"tokens": ["New York"], "ner": [1]}, "field 'tokens': the word 'New York' contains white space"),
        ({"tokens": ["", "x"], "ner": [1, 1]}, "field 'tokens': the word '' is empty"),
        ({"tokens": [1.5], "ner": [1]}, "field 'tokens' has type float64; expected texts"),
        ({"words": ["Ann"], "ner": [1]}, "has no field 'tokens'"),
        ({"tokens": [["Ann"]], "ner": [1]}, "field 'tokens' has an unsupported type: expected text"),
    ],
)
def test_words_that_cannot_be_tagged_are_refused_in_one_line(row, problem, tmp_path):
    tasks.add_tagging(
        "an_bad", source=jsonl(tmp_path, [row]), words="tokens", tags="ner", labels=["O", "B-PER"], replace=True
    )
    with pytest.raises(UserError, match=problem) as caught:
        raws("an_bad")
    assert "\n" not in str(caught.value)


def test_answers_are_lists_as_squad_has_them(tmp_path):
    rows = [
        {"q": "who?", "c": "it is Bo, Ann", "answers": {"text": ["Ann", "Bo"], "answer_start": [10, 6]}},
        {"q": "what?", "c": "it is Bo", "answers": {"text": [], "answer_start": []}},
    ]
    tasks.add_span_extraction(
        "an_span",
        source=jsonl(tmp_path, rows),
        question="q",
        text="c",
        answer="answers.text",
        start="answers.answer_start",
        answers="answers.text",
        replace=True,
    )
    first, second = raws("an_span")
    task = tasks.find("an_span")
    assert first["targets_pretokenized"] == b"Ann"
    assert task.postprocess_fn("Ann", example=first, is_target=True) == ["Ann", "Bo"]
    assert second["targets_pretokenized"] == b""
    assert task.postprocess_fn("", example=second, is_target=True) == [""]
    assert second["targets"][:2].tolist() == [0, 0]
    assert (first["targets"][:2] > 0).all()


def test_a_start_that_is_no_whole_number_is_refused(tmp_path):
    source = jsonl(tmp_path, [{"q": "who?", "c": "Ann", "a": "Ann", "s": [0.5]}])
    tasks.add_span_extraction("an_start", source=source, question="q", text="c", answer="a", start="s", replace=True)
    with pytest.raises(UserError, match="start: field 's' must be an integer, not float64"):
        raws("an_start")
