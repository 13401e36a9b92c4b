import csv as standard_csv
import json
import os
from itertools import chain

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import seqio
import tensorflow as tf

from t2t import tasks
from t2t.errors import UserError
from t2t.tasks import sources

ROWS = [{"text": f"line {n}, “{'x' * (n % 7)}”\ttab" if n % 3 else f"plain {n}", "number": n} for n in range(1000)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))


def write(path, kind, rows=ROWS):
    if kind == "text":
        path.write_text("".join(row["text"] + "\n" for row in rows), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = standard_csv.DictWriter(out, ["text", "number"])
            writer.writeheader()
            writer.writerows(rows)
    elif kind == "tsv":
        lines = ["text\tnumber", *(f"{row['text'].replace(chr(9), ' ')}\t{row['number']}" for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=300)
    return str(path)


def make(kind, files, **options):
    if kind == "parquet" and "held_out" in options:
        options["split_by"] = "text"
    return getattr(sources, kind)(files, **options)


def texts(source, split="train", shards=1, shuffle=False, seed=None):
    found = []
    for shard in range(shards):
        dataset = (
            source.get_dataset(split, shuffle, seed, seqio.ShardInfo(shard, shards))
            if source.num_input_examples(split)
            else []
        )
        found.append([example["text"].numpy().decode() for example in dataset])
    return found


KINDS = ["text", "jsonl", "csv", "tsv", "parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_disjoint_complete_and_even(kind, tmp_path):
    source = make(kind, write(tmp_path / "a", kind))
    wanted = [row["text"].replace("\t", " ") if kind == "tsv" else row["text"] for row in ROWS]
    assert source.num_input_examples("train") == 1000
    assert texts(source) == [wanted]
    for shards in (3, 8):
        found = texts(source, shards=shards, shuffle=True, seed=1)
        assert sorted(chain.from_iterable(found)) == sorted(wanted)
        sizes = [len(shard) for shard in found]
        assert max(sizes) - min(sizes) <= 1
    assert sum(len(shard) for shard in texts(make(kind, write(tmp_path / "b", kind, ROWS[:3])), shards=8)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_splits_are_disjoint_complete_and_stable(kind, tmp_path):
    source = make(kind, write(tmp_path / "a", kind), held_out={"validation": 0.1, "test": 0.2})
    splits = {split: texts(source, split)[0] for split in ("train", "validation", "test")}
    assert sum(len(found) for found in splits.values()) == len(set().union(*splits.values())) == 1000
    assert 60 <= len(splits["validation"]) <= 140
    assert 150 <= len(splits["test"]) <= 250
    assert {split: source.num_input_examples(split) for split in splits} == {
        s: len(found) for s, found in splits.items()
    }
    # An example stays in its split whatever is added around it.
    more = [{"text": "new " + str(n), "number": 10000 + n} for n in range(50)] + ROWS
    longer = make(kind, write(tmp_path / "b", kind, more), held_out={"validation": 0.1, "test": 0.2})
    assert [text for text in texts(longer, "test")[0] if not text.startswith("new")] == splits["test"]


def test_shuffling_follows_the_seed_and_epochs_differ(tmp_path, monkeypatch):
    monkeypatch.setattr("t2t.tasks.sources.lines._BLOCK", 10)
    source = make("jsonl", write(tmp_path / "a", "jsonl", ROWS[:300]))
    once = texts(source, shuffle=True, seed=1)
    assert texts(source, shuffle=True, seed=1) == once
    assert texts(source, shuffle=True, seed=2) != once != texts(source)
    twice = [example["number"].numpy() for example in source.get_dataset("train", True, 1).repeat(2)]
    assert sorted(twice[:300]) == sorted(twice[300:]) == list(range(300))
    assert twice[:300] != twice[300:]


def test_the_iterator_can_be_saved(tmp_path):
    source = make("csv", write(tmp_path / "a", "csv"))
    iterator = iter(source.get_dataset("train", True, 5).repeat())
    for _ in range(700):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    ahead = [next(iterator)["number"].numpy() for _ in range(600)]
    fresh = iter(source.get_dataset("train", True, 5).repeat())
    tf.train.Checkpoint(iterator=fresh).restore(saved).assert_consumed()
    assert [next(fresh)["number"].numpy() for _ in range(600)] == ahead


def test_files_by_split_and_patterns(tmp_path):
    for name in ("a1", "a2", "b"):
        write(tmp_path / f"{name}.txt", "text", [{"text": f"{name} {n}"} for n in range(5)])
    source = sources.text({"train": str(tmp_path / "a*.txt"), "validation": [tmp_path / "b.txt"]})
    assert source.splits == ("train", "validation")
    assert texts(source)[0] == [f"{name} {n}" for name in ("a1", "a2") for n in range(5)]
    assert source.num_input_examples("validation") == 5
    both = sources.text({"train": str(tmp_path / "*.txt"), "test": str(tmp_path / "b.txt")})
    with pytest.raises(UserError, match=r"b\.txt: is both in split 'train' and in 'test'"):
        both.num_input_examples("train")


def test_paragraphs_byte_order_marks_and_line_ends(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffone\r\ntwo\r\n\r\n\r\nthree\r\n".encode())
    assert texts(sources.text(tmp_path / "a", unit="paragraph")) == [["one\ntwo", "three"]]
    assert texts(sources.text(tmp_path / "a")) == [["one", "two", "three"]]
    (tmp_path / "b").write_bytes('\ufefftext,number\r\n"a\r\nb",1\r\n"say ""hi""",2\r\n'.encode())
    source = sources.csv(tmp_path / "b", fields={"text": str, "number": int})
    (example, second) = source.get_dataset("train", False).as_numpy_iterator()
    assert (example["text"], example["number"]) == (b"a\r\nb", 1)
    assert second["text"] == b'say "hi"'


def test_paragraphs_over_many_blocks(tmp_path):
    parts = [f"a {n}\nb {n}" for n in range(700)]
    (tmp_path / "a").write_text("\n\n\n".join(parts))
    source = sources.text(tmp_path / "a", unit="paragraph")
    assert texts(source) == [parts]
    assert sorted(chain.from_iterable(texts(source, shards=5, shuffle=True))) == sorted(parts)


GOOD = {
    "text": b"fine\n",
    "jsonl": b'{"text": "fine", "number": 1}\n',
    "csv": b"fine,1\n",
    "tsv": b"fine\t1\n",
}
BAD = [
    ("text", b"\xff\xfe bad", "invalid UTF-8 at byte 1 of the line"),
    ("jsonl", b'{"text": "x\xe9", "number": 1}', "invalid UTF-8 at byte 12"),
    ("jsonl", b'{"text": "x", "number": 1', "not JSON .* at column"),
    ("jsonl", b'{"test": "x", "number": 1}', "field 'text' is missing. Nearest: test"),
    ("jsonl", b'{"text": 3, "number": 1}', "field 'text' is 3, expected text"),
    ("jsonl", b'{"text": null, "number": 1}', "field 'text' is null, expected text"),
    ("jsonl", b'{"text": "x", "number": 1.5}', "field 'number' is 1.5, expected an integer"),
    ("jsonl", b'{"text": "x", "number": 123456789012345678901}', "does not fit in 64 bits"),
    ("jsonl", b'{"text": "x", "number": ' + b"9" * 5000 + b"}", "too many digits"),
    ("jsonl", b'{"text": "x", "number": 1, "number": 2}', "the key 'number' appears twice"),
    ("jsonl", b"[" * 100000, "nested too deep"),
    ("jsonl", b'{"text": "\\ud800", "number": 1}', "lone surrogate"),
    ("jsonl", b'["x", 1]', "expected a JSON object, not a list"),
    ("csv", b"x,1,2", "3 columns, expected 2"),
    ("csv", b"x", "1 columns, expected 2"),
    ("csv", b'"x"y,1', "broken quotes"),
    ("csv", b"x\xff,1", "invalid UTF-8"),
    ("csv", b"x,one", "field 'number' is \"one\", expected an integer"),
    ("csv", b"x,1_000", "field 'number' is \"1_000\", expected an integer"),
    ("csv", "x,\u0663".encode(), "expected an integer"),
    ("csv", b"x,1.0", "expected an integer"),
    ("csv", b"x," + b"9" * 5000, "expected an integer"),
    ("csv", b"x,", "field 'number' is \"\", expected an integer"),
    ("tsv", b"x 1", "1 columns, expected 2"),
    ("tsv", b"\xc3\t1", "invalid UTF-8"),
]


@pytest.mark.parametrize(("kind", "line", "problem"), BAD, ids=[f"{kind}-{line!r}"[:30] for kind, line, _ in BAD])
def test_a_bad_line_stops_with_file_and_line_or_is_skipped_and_counted(kind, line, problem, tmp_path, caplog):
    head = b"text" + (b"," if kind == "csv" else b"\t") + b"number\n" if kind in ("csv", "tsv") else b""
    content = head + GOOD[kind] * 300 + line + b"\n" + GOOD[kind] * 300
    number = 301 + bool(head)
    path = tmp_path / "bad.data"
    path.write_bytes(content)
    fields = {} if kind == "text" else {"fields": {"text": str, "number": int}}
    source = make(kind, path, **fields)
    task = tasks.add("ts_bad", source=source, targets="text", replace=True)
    for act in (lambda: source.num_input_examples("train"), lambda: task.get_dataset(None, "train")):
        with pytest.raises(UserError, match=problem) as caught:
            act()
        assert str(caught.value).startswith(f"{path}:{number}: ")
        assert "\n" not in str(caught.value)
    with caplog.at_level("WARNING"):
        lenient = make(kind, path, on_bad="skip", **fields)
        assert lenient.num_input_examples("train") == 600
    assert lenient.skipped() == 1
    assert lenient.problems()[0].startswith(f"{path}:{number}: ")
    assert f"skipping 1 bad records: {path}:{number}" in caplog.text
    assert texts(lenient, shards=4) == [["fine"] * 150] * 4


def test_an_unclosed_quote_takes_nothing_else_along(tmp_path, monkeypatch):
    monkeypatch.setattr("t2t.tasks.sources.lines._BLOCK", 10)
    lines = [f"fine {n},{n}\n" for n in range(100)]
    lines[40] = '"never closed,40\n'
    lines[60] = '"two\nlines",60\n'
    lines[70] = '"closes ""wrongly" here,70\n'
    (tmp_path / "a.csv").write_text("text,number\n" + "".join(lines))
    with pytest.raises(UserError, match=r"a\.csv:42: broken quotes: a quote that opens in this line .* up to line 62"):
        sources.csv(tmp_path / "a.csv").num_input_examples("train")
    source = sources.csv(tmp_path / "a.csv", fields={"text": str, "number": int}, on_bad="skip")
    read = list(source.get_dataset("train", False).as_numpy_iterator())
    # The quote of line 42 is found wrong where the next one opens; what stands between is read.
    assert [example["number"] for example in read] == [n for n in range(100) if n not in (40, 70)]
    assert read[59]["text"] == b"two\nlines"
    assert [problem.split(": ")[0].rpartition(":")[2] for problem in source.problems()] == ["42", "73"]
    (tmp_path / "b.csv").write_text('text,number\nfine,1\n"never closed,2\nfine,3\n')
    assert texts(sources.csv(tmp_path / "b.csv", on_bad="skip")) == [["fine", "fine"]]


def test_a_row_of_too_many_columns_says_which_lines_it_goes_over(tmp_path):
    (tmp_path / "a.csv").write_text('text,number\n"a\nb",1,2\n')
    with pytest.raises(UserError, match=r"a\.csv:2: 3 columns, expected 2 \(text, number\), in lines 2 to 3"):
        sources.csv(tmp_path / "a.csv").num_input_examples("train")


@pytest.mark.parametrize(
    ("row", "problem"),
    [({"text": None, "number": 1}, "field 'text' is null"), ({"text": "x", "number": None}, "field 'number' is null")],
)
def test_a_bad_row_of_parquet(row, problem, tmp_path):
    path = write(tmp_path / "a.parquet", "parquet", [*ROWS[:450], row, *ROWS[:10]])
    with pytest.raises(UserError, match=problem) as caught:
        sources.parquet(path).num_input_examples("train")
    assert str(caught.value).startswith(f"{path}: row 451: ")
    lenient = sources.parquet(path, on_bad="skip")
    assert (lenient.num_input_examples("train"), lenient.skipped()) == (460, 1)
    assert texts(lenient)[0] == [row["text"] for row in [*ROWS[:450], *ROWS[:10]]]


def test_parquet_with_invalid_utf8(tmp_path):
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: row 1: invalid UTF-8"):
        sources.parquet(tmp_path / "a.parquet").num_input_examples("train")


def test_missing_empty_foreign_and_vanished_files(tmp_path):
    write(tmp_path / "corpus.txt", "text", ROWS[:5])
    with pytest.raises(UserError, match=r"corpsu\.txt: no such file \(split 'train'\)\. Nearest: corpus\.txt"):
        sources.text(tmp_path / "corpsu.txt").num_input_examples("train")
    with pytest.raises(UserError, match=r"\*\.json: no such file"):
        sources.jsonl(str(tmp_path / "*.json")).num_input_examples("train")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=r"empty\.txt: is empty"):
        sources.text(tmp_path / "empty.txt").num_input_examples("train")
    (tmp_path / "blank.txt").write_text("\n\n \n")
    with pytest.raises(UserError, match=r"'train' of text files .*blank\.txt.* is empty"):
        sources.text(tmp_path / "blank.txt").get_dataset("train")
    with pytest.raises(UserError, match=r"corpus\.txt: cannot be read as a Parquet file"):
        sources.parquet(tmp_path / "corpus.txt").num_input_examples("train")
    with pytest.raises(UserError, match="only local paths are supported"):
        sources.text("gs://bucket/a.txt").num_input_examples("train")
    source = sources.text(tmp_path / "corpus.txt")
    assert source.num_input_examples("train") == 5
    os.remove(tmp_path / "corpus.txt")
    with pytest.raises(UserError, match=r"corpus\.txt: cannot be read: No such file"):
        source.read_block("train", 0)


def test_a_file_that_changed_is_refused(tmp_path):
    path = write(tmp_path / "a", "text", ROWS[:5])
    source = sources.text(path)
    source.num_input_examples("train")
    write(tmp_path / "a", "text", ROWS[:9])
    with pytest.raises(UserError, match="the file changed while it was in use"):
        source.read_block("train", 0)
    with pytest.raises(tf.errors.OpError, match=f"{path}: the file changed while it was in use"):
        list(source.get_dataset("train", False))


def test_columns_of_delimited_files(tmp_path):
    (tmp_path / "a.csv").write_text("x;1\ny;2\n")
    source = sources.csv(
        tmp_path / "a.csv", columns=["text", "number"], delimiter=";", fields={"number": float, "text": str}
    )
    assert [e["number"] for e in source.get_dataset("train", False).as_numpy_iterator()] == [1.0, 2.0]
    (tmp_path / "b.csv").write_text("a,a\n1,2\n")
    with pytest.raises(UserError, match=r"b\.csv:1: .*empty or repeated column"):
        sources.csv(tmp_path / "b.csv").num_input_examples("train")


def test_the_index_of_a_large_file_is_kept_until_the_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("t2t.tasks.sources.lines._WORTH_KEEPING", 10)
    path = write(tmp_path / "a", "jsonl")
    first = texts(sources.jsonl(path, held_out=0.1), "validation")
    read = []
    through = sources.lines.LineSource._read_through
    monkeypatch.setattr(sources.lines.LineSource, "_read_through", lambda *args: read.append(args[1]) or through(*args))
    assert texts(sources.jsonl(path, held_out=0.1), "validation") == first
    assert not read
    assert sources.jsonl(path, held_out=0.2).num_input_examples("train") < 900
    write(tmp_path / "a", "jsonl", ROWS[:500])
    assert sources.jsonl(path, held_out=0.1).num_input_examples("train") < 500
    assert len(read) == 2
    for index in (tmp_path / "cache" / "indexes").iterdir():
        index.write_bytes(b"torn")
    assert sources.jsonl(path, held_out=0.1).num_input_examples("train") < 500


def test_split_by_keeps_alike_examples_together(tmp_path):
    rows = [{"text": f"{n}", "group": f"g{n % 40}"} for n in range(800)]
    source = sources.jsonl(write(tmp_path / "a", "jsonl", rows), held_out=0.3, split_by="group")
    groups = {s: {e["group"].numpy() for e in source.get_dataset(s)} for s in ("train", "validation")}
    assert groups["train"] | groups["validation"] == {f"g{n}".encode() for n in range(40)}
    assert not groups["train"] & groups["validation"]


def test_senseless_options_are_refused(tmp_path):
    path = tmp_path / "a"
    for call, message in [
        (lambda: sources.text(path, on_bad="ignore"), "on_bad='ignore'"),
        (lambda: sources.text(path, unit="word"), "unit='word'"),
        (lambda: sources.text(path, held_out=1.0), "held_out fraction 1.0"),
        (lambda: sources.text(path, held_out={"a": 0.6, "b": 0.5}), "add up to 1.1"),
        (lambda: sources.text(path, held_out={"train": 0.6}), "names 'train'"),
        (lambda: sources.text({"train": path}, held_out=0.1), "given for each split"),
        (lambda: sources.text([]), "no files: give a path"),
        (lambda: sources.csv(path, delimiter="||"), "one character"),
        (lambda: sources.jsonl(path, fields={"a": list}), "field 'a' is declared"),
        (lambda: sources.csv(path, fields={"a": list[str]}), "field 'a' is declared .* cannot have lists"),
        (lambda: sources.parquet(path, held_out=0.1), "split_by"),
        (lambda: sources.text(write(path, "text")).num_input_examples("test"), "split 'test' of text files.*train"),
    ]:
        with pytest.raises(UserError, match=message):
            call()
