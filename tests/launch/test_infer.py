import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from t2t.api import inference
from t2t.decode import Beam, Greedy, Sampling, fill_texts, generate_texts
from t2t.errors import UserError
from t2t.launch import infer, parse
from t2t.train.run import SavedRun
from t2t.vocabularies import Bytes, Vocabulary
from tests.decode.toy import Toy, ToyConfig, ToyEncoderConfig, ToyEncoderDecoderConfig


@dataclass
class FakeRun:
    model: Toy
    vocabulary: Vocabulary
    length: int = 5
    reads: int = 0

    @property
    def experiment(self):
        return SimpleNamespace(model=self.model.config, data=SimpleNamespace(targets_length=self.length))

    def params(self):
        self.reads += 1
        return self.model.init(jax.random.key(0))


@pytest.fixture
def load(monkeypatch):
    def use(config):
        run = FakeRun(Toy(config), Bytes())
        monkeypatch.setattr(SavedRun, "load", classmethod(lambda cls, directory, step=None, **options: run))
        return run

    return use


def call(*words):
    return parse.call(infer.command, words, prog="t2t infer")


ENCODER_DECODER = ToyEncoderDecoderConfig(vocab_size=384)


def test_texts_are_answered_on_standard_output(load, capsys):
    run = load(ENCODER_DECODER)
    call("RUN", "--text", "reverse: a", "--text", "b")
    expected = generate_texts(run.model, run.params(), run.vocabulary, ["reverse: a", "b"], Greedy(), length=5)
    assert capsys.readouterr().out == "".join(outputs[0].text + "\n" for outputs in expected)


def test_files_are_answered_line_by_line_in_order(load, tmp_path, capsys, monkeypatch):
    run = load(ENCODER_DECODER)
    texts = ["a longer line than the others", "b", "", "ä"]
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("\n".join(texts) + "\n", encoding="utf-8")
    monkeypatch.setattr(inference, "AT_ONCE", 3)
    call("RUN", "--input", str(source), "--output", str(target), "--beams", "3", "--samples", "2", "--max-length", "4")
    assert capsys.readouterr().out == ""
    rows = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    expected = generate_texts(run.model, run.params(), run.vocabulary, texts, Beam(size=3, return_n=2), length=4)
    assert [row["inputs"] for row in rows] == texts
    for row, outputs in zip(rows, expected, strict=True):
        assert [p["prediction"] for p in row["predictions"]] == [o.text for o in outputs]
        assert row["prediction"] == outputs[0].text
        assert [p["ended"] for p in row["predictions"]] == [o.ended for o in outputs]
        assert row["score"] == pytest.approx(outputs[0].score, rel=1e-5)
    assert run.reads == 2  # once for the command, once for the test
    assert not target.with_name("out.jsonl.partial").exists()


def test_json_lines_keep_their_fields(load, tmp_path, capsys):
    load(ENCODER_DECODER)
    source = tmp_path / "in.jsonl"
    source.write_text('{"id": 7, "inputs": "a", "targets": "b"}\n{"inputs": "c"}\n')
    call("RUN", "--input", str(source))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {**rows[0], "prediction": "", "score": 0, "ended": 0} == {
        "id": 7, "inputs": "a", "targets": "b", "prediction": "", "score": 0, "ended": 0,
    }  # fmt: skip
    assert set(rows[1]) == {"inputs", "prediction", "score", "ended"}


def test_sampling_is_repeated_by_its_seed(load, capsys):
    load(ENCODER_DECODER)

    def draw(seed):
        call("RUN", "--text", "abc", "--samples", "4", "--seed", str(seed))
        return capsys.readouterr().out

    assert draw(1) == draw(1) != draw(2)


def test_language_models_go_on_with_a_text(load, capsys):
    run = load(ToyConfig(vocab_size=384))
    call("RUN", "--text", "abc", "--continue-text")
    params = run.params()
    (going_on,) = generate_texts(run.model, params, run.vocabulary, ["abc"], Greedy(), length=5, append_eos=False)
    (answering,) = generate_texts(run.model, params, run.vocabulary, ["abc"], Greedy(), length=5)
    assert capsys.readouterr().out == going_on[0].text + "\n"
    assert going_on[0].score != answering[0].score


def test_encoders_fill_in_masks(load, capsys, tmp_path):
    run = load(ToyEncoderConfig(vocab_size=384))
    text = "a<mask>b<mask>"
    ((first, second),) = fill_texts(run.model, run.params(), run.vocabulary, [text], top=2)
    call("RUN", "--text", text, "--top", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"a{first[0].text}b{second[0].text}"
    assert (
        lines[1]
        == f"  mask 1: {first[0].text!r} {first[0].probability:.3f}  {first[1].text!r} {first[1].probability:.3f}"
    )
    source = tmp_path / "in.txt"
    source.write_text(text)
    call("RUN", "--input", str(source))
    row = json.loads(capsys.readouterr().out)
    assert [len(mask) for mask in row["masks"]] == [5, 5]
    assert row["masks"][1][0]["id"] == second[0].id


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Greedy()),
        ({"decoding": "sample"}, Sampling()),
        ({"top_k": 5}, Sampling(top_k=5)),
        ({"temperature": 0.5, "top_p": 0.9, "samples": 3}, Sampling(temperature=0.5, top_p=0.9, samples=3)),
        ({"beams": 2, "length_penalty": 1.0, "samples": 2}, Beam(size=2, length_penalty=1.0, return_n=2)),
        ({"decoding": "beam"}, Beam()),
    ],
)
def test_options_say_how_to_decode(given, expected):
    assert infer.choose(given.pop("decoding", None), **given) == expected


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the text is missing"),
        (["--text", "a", "--input", "b"], "both given"),
        (["--text", "a", "--decoding", "beam", "--top-k", "3"], "--top-k 3: this option is for --decoding sample"),
        (["--text", "a", "--beams", "2", "--top-k", "3"], "--top-k 3"),
        (["--text", "a", "--decoding", "greedy", "--samples", "3"], "--samples 3"),
        (["--text", "a", "--top", "3"], "for encoders"),
        (["--text", "a", "--continue-text"], "only decoders"),
        (["--text", "a", "--max-length", "0"], r"max_length 0 \(--max-length\)"),
        (["--text", "a", "--batch-size", "0"], r"batch_size 0 \(--batch-size\)"),
        (["--input", "missing.txt"], "missing.txt"),
        (["--text", "a", "--output", "no/such/place.jsonl"], "no such directory"),
        (["--text", "a", "--decoding", "beem"], "beem"),
        (["--text", "a", "--temperature", "0"], "temperature 0.0"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_the_parameters_are_read(load, words, said):
    run = load(ENCODER_DECODER)
    with pytest.raises(UserError, match=said):
        call("RUN", *words)
    assert run.reads == 0


def test_encoders_refuse_what_generates(load):
    load(ToyEncoderConfig(vocab_size=384))
    with pytest.raises(UserError, match="--beams 2: RUN is an encoder"):
        call("RUN", "--text", "<mask>", "--beams", "2")
    with pytest.raises(UserError, match=r"text 2 \(--text\) has no mask"):
        call("RUN", "--text", "<mask>", "--text", "a")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"inputs": "a"}\n{"input": "b"}\n', r"a.jsonl:2: no field 'inputs'. Nearest: input"),
        ("a.jsonl", b'{"inputs": "a"}\n{"inputs": \n', "a.jsonl:2: the line is not a JSON object"),
        ("a.jsonl", b"[1]\n", "a.jsonl:1: expected a JSON object, not list"),
        ("a.jsonl", b'{"inputs": 3}\n', "'inputs' is int"),
        ("a.txt", b"fine\nb\xffd\n", r"a.txt:2: not UTF-8 text \(byte 1"),
        ("a.txt", b"", "has no text"),
        ("a.jsonl", b"\xef\xbb\xbf\n\n", "has no text"),
        ("a.txt", "fine".encode("utf-16"), "UTF-16.*Nearest: the same text saved as UTF-8"),
        ("a.jsonl", b'\n\n{"input": "b"}\n', "a.jsonl:3: no field"),
    ],
)
def test_bad_lines_are_named(load, tmp_path, name, content, said):
    load(ENCODER_DECODER)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        call("RUN", "--input", str(path))


def test_too_long_a_line_is_named_and_nothing_written(load, tmp_path):
    load(ToyEncoderDecoderConfig(vocab_size=384, positions=8))
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    source.write_text("a\n" + "b" * 20)
    with pytest.raises(UserError, match=r"in.txt:2 has 21 tokens"):
        call("RUN", "--input", str(source), "--output", str(target))
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"\xef\xbb\xbfone\r\ntwo\r\n"),
        ("a.jsonl", b'\xef\xbb\xbf{"inputs": "one"}\r\n\r\n{"inputs": "two"}\n \n\n'),
    ],
)
def test_what_windows_programs_write_is_no_text(load, tmp_path, capsys, name, content):
    load(ENCODER_DECODER)
    path = tmp_path / name
    path.write_bytes(content)
    call("RUN", "--input", str(path))
    assert [json.loads(line)["inputs"] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]


def test_too_long_texts_are_cut_or_left_out_as_asked(load, tmp_path, capsys):
    load(ToyEncoderDecoderConfig(vocab_size=384, positions=8))
    source = tmp_path / "in.txt"
    source.write_text("a\n" + "b" * 20 + "\nc\n" + "d" * 7 + "\n" + "äöü" * 2 + "\n")
    with pytest.raises(
        UserError, match="--too-long truncate cuts the end of such texts, --too-long skip leaves them out"
    ):
        call("RUN", "--input", str(source))
    call("RUN", "--input", str(source), "--too-long", "truncate")
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["inputs"], row.get("truncated")) for row in rows] == [
        ("a", None),
        ("b" * 7, True),  # and EOS
        ("c", None),
        ("d" * 7, None),
        ("äöü", True),  # two bytes a letter
    ]
    assert err == f"2 texts are too long and were truncated, the first is {source}:2\n"
    call("RUN", "--input", str(source), "--too-long", "skip")
    out, err = capsys.readouterr()
    assert [json.loads(line)["inputs"] for line in out.splitlines()] == ["a", "c", "d" * 7]
    assert err == f"2 texts are too long and were skipped, the first is {source}:2\n"


def test_too_long_texts_as_vectors(load, capsys):
    load(ToyEncoderConfig(vocab_size=384, positions=8))
    call("RUN", "--text", "a" * 20, "--text", "b", "--embed", "mean", "--too-long", "truncate")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["inputs"], len(row["embedding"]) > 0) for row in rows] == [("a" * 7, True), ("b", True)]
    call("RUN", "--embed", "--text", "a" * 20, "--too-long", "skip")
    assert capsys.readouterr().out == ""


def test_a_link_stays_a_pipe_and_a_device_too(load, tmp_path):
    load(ENCODER_DECODER)
    target, link, pipe = tmp_path / "target.jsonl", tmp_path / "link", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    call("RUN", "--text", "a", "--output", str(link))
    assert link.is_symlink()
    assert json.loads(target.read_text())["inputs"] == "a"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        found = reader.submit(pipe.read_text)
        call("RUN", "--text", "a", "--output", str(pipe))
        assert found.result() == target.read_text()
    assert pipe.is_fifo()
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        call("RUN", "--text", "a", "--output", "/dev/full")
    assert Path("/dev/full").is_char_device()
    assert sorted(tmp_path.iterdir()) == [link, pipe, target]


def test_this_programs_own_open_files_are_gone_on_with(load, tmp_path):
    load(ENCODER_DECODER)
    with (tmp_path / "log").open("w") as log:
        log.write("before\n")
        log.flush()
        call("RUN", "--text", "a", "--output", f"/dev/fd/{log.fileno()}")
        log.write("after\n")
    before, answer, after = (tmp_path / "log").read_text().splitlines()
    assert (before, json.loads(answer)["inputs"], after) == ("before", "a", "after")


class Written(io.StringIO):
    def __init__(self, encoding=None, terminal=False):
        super().__init__()
        self._encoding, self._terminal = encoding, terminal

    @property
    def encoding(self):
        return self._encoding

    def isatty(self):
        return self._terminal


def test_control_characters_reach_no_terminal_and_every_file():
    answer = {"prediction": "a\x1b[2Jb\u202ec\x9b"}
    shown, kept = Written(terminal=True), Written()
    infer._write(iter([answer]), shown, readable=True)
    infer._write(iter([answer]), kept, readable=True)
    assert shown.getvalue() == "a\\x1b[2Jb\\u202ec\\x9b\n"
    assert kept.getvalue() == answer["prediction"] + "\n"


def test_json_loses_no_character_to_an_encoding():
    for encoding in ("ascii", "iso-8859-1", "utf-8"):
        written = Written(encoding)
        infer._write(iter([{"prediction": "é→"}]), written, readable=False)
        written.getvalue().encode(encoding)
        assert json.loads(written.getvalue()) == {"prediction": "é→"}


def test_neither_tensorflow_nor_seqio_is_loaded():
    program = "import sys, t2t.launch.infer, t2t.train.run; print({'tensorflow', 'seqio'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
