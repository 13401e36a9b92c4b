"""Words, tags and answers as lists, which is how data sets of JSON lines and Parquet have them."""

import json

import numpy as np
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


LABELS = ["sad", "glad", "mad, very"]


@pytest.mark.parametrize(
    ("fields", "found", "wanted"),
    [
        ("x", {"x": ["mad, very", "sad"]}, [1, 0, 1]),
        ("x", {"x": [1, 0]}, [1, 1, 0]),
        ("x", {"x": [2]}, [0, 0, 1]),
        ("x", {"x": []}, [0, 0, 0]),
        ("x", {"x": "glad, sad"}, [1, 1, 0]),
        ("x", {"x": "0,1"}, [1, 1, 0]),
        ("x", {"x": ""}, [0, 0, 0]),
        ("x", {"x": 1}, [0, 1, 0]),
        ("x", {"x": [True, False, True]}, [1, 0, 1]),
        (["a", "b", "c"], {"a": 0, "b": 1, "c": 1}, [0, 1, 1]),
        (["a", "b", "c"], {"a": False, "b": True, "c": False}, [0, 1, 0]),
        ("x", {"x": [-1]}, None),
        ("x", {"x": "<unk>"}, None),
        (["a", "b", "c"], {"a": -1, "b": -1, "c": -1}, None),
    ],
)
def test_several_labels_are_names_numbers_or_flags(fields, found, wanted, tmp_path):
    source = jsonl(
        tmp_path, [{"t": "so so", **found}] * 2 + ([{"t": "b", "x": ["sad"]}] if found.get("x") == [] else [])
    )
    tasks.add_classification(
        "an_labels", source=source, inputs="t", targets=fields, labels=LABELS, several=True, replace=True
    )
    raw = raws("an_labels")[0]
    assert raw["weights"].tolist() == [int(wanted is not None), *[0] * 5]
    assert raw["values"].tolist() == (wanted or [0, 0, 0])
    assert not raw["targets"].any()


@pytest.mark.parametrize(
    ("fields", "found", "problem"),
    [
        (
            "x",
            {"x": ["badd"]},
            "'badd' is not one of the labels sad, glad, mad, very or a number from 0 to 2.*Nearest: sad",
        ),
        ("x", {"x": [3]}, "'3' is not one of the labels"),
        (["a", "b", "c"], {"a": 0, "b": 2, "c": 1}, "field 'b': '2' does not say whether the text has the label"),
        ("y", {"x": [1]}, "has no field 'y'"),
    ],
)
def test_labels_that_cannot_be_read_are_refused_in_one_line(fields, found, problem, tmp_path):
    source = jsonl(tmp_path, [{"t": "so so", **found}])
    tasks.add_classification(
        "an_labels", source=source, inputs="t", targets=fields, labels=LABELS, several=True, replace=True
    )
    with pytest.raises(UserError, match=problem) as caught:
        raws("an_labels")
    assert "\n" not in str(caught.value)


def test_a_registration_with_other_numbers_of_fields_is_refused(tmp_path):
    source = jsonl(tmp_path, [{"t": "a", "x": 1}])
    add = {"source": source, "inputs": "t", "replace": True}
    for more, problem in (
        ({"labels": LABELS, "targets": ["x"], "several": True}, "1 fields for 3 labels"),
        ({"labels": LABELS, "targets": ["x"]}, r"a list of fields is for several labels \(several=True\)"),
        ({"labels": ["a\nb"], "targets": "x", "several": True}, "different texts of one line"),
        ({"labels": ["a", "a"], "targets": "x", "several": True}, "different texts of one line"),
    ):
        with pytest.raises(UserError, match=problem):
            tasks.add_classification("an_labels", **add, **more)
    with pytest.raises(UserError, match="1 fields for 2 numbers"):
        tasks.add_regression("a_number", **add, targets=["x"], names=["a", "b"])


@pytest.mark.parametrize(
    ("fields", "names", "found", "wanted"),
    [
        ("x", [], {"x": 0.1}, [0.1]),
        ("x", [], {"x": 3}, [3]),
        ("x", [], {"x": "-2.5"}, [-2.5]),
        ("{x}", [], {"x": 1e-7}, [1e-7]),
        ("x", [], {"x": "<unk>"}, None),
        ("x", ["a", "b"], {"x": [0.25, 4.0]}, [0.25, 4]),
        (["x", "y"], ["a", "b"], {"x": 1, "y": 0.5}, [1, 0.5]),
    ],
)
def test_numbers_are_numbers_or_texts_of_them(fields, names, found, wanted, tmp_path):
    source = jsonl(tmp_path, [{"t": "a", "u": "b", **found}])
    tasks.add_regression("a_number", source=source, inputs="t", second="u", targets=fields, names=names, replace=True)
    (raw,) = raws("a_number")
    assert raw["weights"][0] == int(wanted is not None)
    assert raw["values"].tolist() == np.array(wanted or [0], np.float32).tolist()
    assert raw["types"].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("names", "found", "problem"),
    [
        ([], {"x": "much"}, "the target 'much' is not a finite number"),
        ([], {"x": [1.0, 2.0]}, "the target '1.0.n2.0' is not a finite number"),
        (["a", "b"], {"x": 1}, "the target '1' is not 2 finite numbers"),
        ([], {"x": "inf"}, "the target 'inf' is not a finite number"),
    ],
)
def test_what_is_not_a_number_is_refused_in_one_line(names, found, problem, tmp_path):
    source = jsonl(tmp_path, [{"t": "a", **found}])
    tasks.add_regression("a_number", source=source, inputs="t", targets="x", names=names, replace=True)
    with pytest.raises(UserError, match=problem) as caught:
        raws("a_number")
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
