"""Types of fields of JSON lines and Parquet files: told from many records, lists, nested ones, numbers that stay what they are."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.data.config import Data
from t2t.data.pipeline import evaluation_batches
from t2t.errors import UserError
from t2t.tasks import metrics, sources


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))


def jsonl(tmp_path, rows, **options):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sources.jsonl(tmp_path / "a.jsonl", **options)


def parquet(tmp_path, columns, **options):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    return sources.parquet(tmp_path / "a.parquet", **options)


def read(source, split="train"):
    return list(source.get_dataset(split, False).as_numpy_iterator())


def raws(name, kind="encoder_decoder"):
    batches = evaluation_batches(Data(task=name, inputs_length=64, targets_length=64, batch_size=4), kind)
    return [raw for _, some in batches for raw in some]


def test_fields_are_those_of_the_task_and_have_the_types_of_most_records(tmp_path):
    rows = [{"a": "x", "n": n, "f": 0.5, "b": True, "deep": [[1]]} for n in range(3)]
    rows.append({"a": "y", "n": 3, "f": 1, "b": False, "rare": "x"})
    source = jsonl(tmp_path, rows)
    assert source.fields() == {"a": str, "n": int, "f": float, "b": bool}
    assert [e["f"] for e in read(source)] == [0.5, 0.5, 0.5, 1.0]
    task = tasks.add("sf_fields", source=source, inputs="{n}: {b}", targets="a", replace=True)
    assert task.source.fields() == {"n": int, "b": bool, "a": str}
    with pytest.raises(UserError, match="has no field 'c'"):
        tasks.add("sf_fields", source=source, targets="c", replace=True).num_input_examples("train")
    with pytest.raises(
        UserError,
        match="field 'deep' has an unsupported type: expected text, a number, a boolean, or a list of one of these",
    ):
        jsonl(tmp_path, rows, fields=["deep"]).num_input_examples("train")


@pytest.mark.parametrize("first", [{"a": None, "n": 1}, {"n": 1}, {"a": 7, "n": 1}, {"a": ["x"], "n": None}])
def test_a_first_record_unlike_the_others_is_the_bad_one(first, tmp_path):
    rows = [first, *({"a": f"x{n}", "n": n} for n in range(9))]
    source = jsonl(tmp_path, rows, fields=["a", "n"], on_bad="skip")
    assert source.fields() == {"a": str, "n": int}
    assert (source.num_input_examples("train"), source.skipped()) == (9, 1)
    with pytest.raises(UserError, match=r"a\.jsonl:1: field '[an]' is"):
        jsonl(tmp_path, rows, fields=["a", "n"]).num_input_examples("train")


def test_a_field_that_is_null_for_long_is_still_told(tmp_path):
    rows = [*({"a": "x", "rare": None} for _ in range(1500)), {"a": "x", "rare": 2}]
    source = jsonl(tmp_path, rows, fields=["a", "rare"], on_bad="skip")
    assert source.fields() == {"a": str, "rare": int}
    assert (source.num_input_examples("train"), source.skipped()) == (1, 1500)
    with pytest.raises(UserError, match="field 'rare' has an unsupported type: expected text, a number"):
        jsonl(tmp_path, rows[:-1], fields=["rare"]).num_input_examples("train")


NUMBERS = [1234567.89, 123456789.0, 3.14159265358979, 0.1, -2.5e-7, 1e22, 0.30000000000000004, 5.0, 1e16]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_floats_become_the_shortest_text_that_they_are_read_from(kind, tmp_path):
    whole, flags = [2**53 + 1 + i for i in range(len(NUMBERS))], [i % 2 == 0 for i in range(len(NUMBERS))]
    columns = {"f": NUMBERS, "n": whole, "b": flags}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    source = jsonl(tmp_path, rows) if kind == "jsonl" else parquet(tmp_path, columns)
    tasks.add("sf_numbers", source=source, inputs="{n} {b}", targets="f", metrics=[metrics.exact_match], replace=True)
    found = raws("sf_numbers")
    assert [raw["targets_pretokenized"].decode() for raw in found] == [repr(number) for number in NUMBERS]
    assert [raw["inputs_pretokenized"].decode() for raw in found] == [
        f"{n} {str(b).lower()}" for n, b in zip(whole, flags, strict=True)
    ]


def test_narrow_floats_are_the_decimals_that_they_were_read_from(tmp_path):
    columns = {"f": pa.array([0.1, 1234567.9], pa.float32()), "h": pa.array(np.array([0.1, 2.0], np.float16))}
    source = parquet(tmp_path, {**columns, "l": pa.array([[0.1], []], pa.list_(pa.float32()))})
    first, second = read(source)
    assert (first["f"], second["f"], first["h"]) == (0.1, 1234567.9, 0.1)
    assert first["l"].tolist() == [0.1]
    # A source of TFDS has floats of 32 bits.
    pair = seqio.FunctionDataSource(
        lambda split, shuffle_files: tf.data.Dataset.from_tensors({"f": tf.constant(0.1)}), ["train"]
    )
    tasks.add("sf_narrow", source=pair, inputs="{f}", targets="f", replace=True)
    assert raws("sf_narrow")[0]["targets_pretokenized"] == b"0.1"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("NaN", "field 'f' is nan, expected a finite number"),
        ("1e999", "field 'f' is inf, expected a finite number"),
        (str(2**53 + 1), "no 64-bit float equals this integer"),
        ("1" + "0" * 400, "no 64-bit float equals this integer"),
        ("true", "field 'f' is true, expected a number"),
    ],
)
def test_numbers_that_would_be_others_are_refused(value, problem, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"f": 1.5}\n' * 3 + f'{{"f": {value}}}\n')
    with pytest.raises(UserError, match=rf"a\.jsonl:4: .*{problem}") as caught:
        sources.jsonl(tmp_path / "a.jsonl").num_input_examples("train")
    assert len(str(caught.value)) < 300
    assert sources.jsonl(tmp_path / "a.jsonl", on_bad="skip").num_input_examples("train") == 3


LISTS = {
    "words": [["Ann", "sleeps"], [], ["é", "x", "y"]],
    "tags": [[1, 0], [], [0, 0, 1]],
    "scores": [[0.1], [2.0, 3.5], []],
    "flags": [[True], [], [False, True]],
    "id": ["a", "b", "c"],
}


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_lists_are_vectors_and_their_place_can_be_saved(kind, tmp_path):
    rows = [dict(zip(LISTS, values, strict=True)) for values in zip(*LISTS.values(), strict=True)]
    source = jsonl(tmp_path, rows) if kind == "jsonl" else parquet(tmp_path, LISTS)
    assert source.fields() == {
        "words": list[str],
        "tags": list[int],
        "scores": list[float],
        "flags": list[bool],
        "id": str,
    }
    found = read(source)
    for row, example in zip(rows, found, strict=True):
        assert [word.decode() for word in example["words"]] == row["words"]
        for name in ("tags", "scores", "flags"):
            assert example[name].tolist() == row[name]
    iterator = iter(source.get_dataset("train", True, 5).repeat())
    for _ in range(4):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    ahead = [next(iterator)["id"].numpy() for _ in range(7)]
    fresh = iter(source.get_dataset("train", True, 5).repeat())
    tf.train.Checkpoint(iterator=fresh).restore(saved).assert_consumed()
    assert [next(fresh)["id"].numpy() for _ in range(7)] == ahead


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"l": None}, "field 'l' is null, expected a list of texts"),
        ({"l": "x"}, "field 'l' is \"x\", expected a list of texts"),
        ({"l": ["x", None]}, "field 'l', item 2 is null, expected text"),
        ({"l": ["x", 3]}, "field 'l', item 2 is 3, expected text"),
        ({"l": [["x"]]}, "field 'l', item 1 is a list, expected text"),
        ({}, "field 'l' is missing"),
    ],
)
def test_a_list_of_other_things_is_a_bad_record(row, problem, tmp_path):
    rows = [{"l": ["x"]}, {"l": []}, row]
    with pytest.raises(UserError, match=rf"a\.jsonl:3: {problem}"):
        jsonl(tmp_path, rows, fields=["l"]).num_input_examples("train")
    assert jsonl(tmp_path, rows, fields=["l"], on_bad="skip").num_input_examples("train") == 2


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_fields_of_objects_have_dotted_names(kind, tmp_path):
    answers = [{"text": ["a", "b"], "start": [0, 1]}, {"text": [], "start": []}]
    columns = {"q": ["x", "y"], "answers": answers}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    source = jsonl(tmp_path, rows) if kind == "jsonl" else parquet(tmp_path, columns)
    assert source.fields() == {"q": str, "answers.text": list[str], "answers.start": list[int]}
    assert [example["answers.start"].tolist() for example in read(source)] == [[0, 1], []]
    with pytest.raises(UserError, match=r"has no field 'answers'\. Nearest: answers\.text"):
        tasks.add("sf_object", source=source, targets="answers", replace=True).num_input_examples("train")


def test_a_function_that_asks_for_another_field_is_told_in_one_line(tmp_path):
    source = jsonl(tmp_path, [{"text": "x"}])
    task = tasks.add("sf_function", source=source, targets=lambda example: example["txet"], replace=True)
    message = "targets of task 'sf_function': its function asks for field 'txet', .* Nearest: text"
    with pytest.raises(UserError, match=message):
        raws("sf_function", "decoder")
    assert task.name == "sf_function"


def _texts(name, split="train"):
    return [
        tuple(example[f"{part}_pretokenized"].decode() for part in ("inputs", "targets"))
        for example in tasks.find(name)
        .get_dataset(split=split, shuffle=False, sequence_length=None)
        .as_numpy_iterator()
    ]


def test_columns_by_number_are_of_files_without_a_header(tmp_path):
    rows = ["open the file\tDatei öffnen\t1", "close it\tschließen\t2", "save\tspeichern\t3"]
    with gzip.open(tmp_path / "pairs.tsv.gz", "wt", encoding="utf-8") as stream:
        stream.write("\ufeff" + "\n".join(rows) + "\n")
    tasks.add(
        "numbered_pairs",
        source=sources.tsv(tmp_path / "pairs.tsv.gz"),
        prefix="en de: ",
        inputs=0,
        targets=1,
        replace=True,
    )
    assert _texts("numbered_pairs") == [
        ("en de: open the file", "Datei öffnen"),
        ("en de: close it", "schließen"),
        ("en de: save", "speichern"),
    ]


def test_columns_by_number_may_have_names(tmp_path):
    (tmp_path / "pairs.csv").write_text('"a, b",c\nd,e\n')
    named = sources.csv(tmp_path / "pairs.csv", columns=["left", "right"])
    tasks.add("numbered_pairs", source=named, inputs=1, targets="left", replace=True)
    assert _texts("numbered_pairs") == [("c", "a, b"), ("e", "d")]


@pytest.mark.parametrize(
    ("source", "inputs", "said"),
    [
        ("tsv", -1, r"columns \[-1, 1\] of task 'wrong_pairs': .* Nearest: 0"),
        ("tsv", True, r"columns \[True, 1\] of task 'wrong_pairs'"),
        ("jsonl", 0, r"only columns of CSV and TSV files have numbers"),
        ("parquet", 0, r"columns \[0, 1\] of task 'wrong_pairs': only columns of CSV and TSV files have numbers"),
    ],
)
def test_columns_that_cannot_be_are_refused(tmp_path, source, inputs, said):
    with pytest.raises(UserError, match=said):
        tasks.add("wrong_pairs", source=getattr(sources, source)(str(tmp_path / "pairs")), inputs=inputs, targets=1)


def test_a_column_that_there_is_not_names_the_last_one(tmp_path):
    (tmp_path / "pairs.tsv").write_text("a\tb\n")
    named = sources.tsv(tmp_path / "pairs.tsv", columns=["left", "right"])
    with pytest.raises(UserError, match=r"there is no column 2\. Nearest: 1\."):
        tasks.add("wrong_pairs", source=named, inputs=0, targets=2)
    tasks.add("numbered_pairs", source=sources.tsv(tmp_path / "pairs.tsv"), inputs=0, targets=2, replace=True)
    with pytest.raises(UserError, match=r"no field '2'"):
        _texts("numbered_pairs")
