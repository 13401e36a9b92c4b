"""Compressed files are read as what they hold, with the same shards, splits and positions."""

import bz2
import gzip
import json
import lzma
from itertools import chain

import pyarrow as pa
import pytest
import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks import sources

LINES = [f"line {n} {'x' * (n % 7)}" for n in range(700)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("t2t.tasks.sources.lines._BLOCK", 10)


def zstd(content):
    out = pa.BufferOutputStream()
    with pa.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return out.getvalue().to_pybytes()


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}
CONTENT = {
    "text": "".join(f"{line}\n" for line in LINES),
    "jsonl": "".join(json.dumps({"text": line}) + "\n" for line in LINES),
    "csv": "text,n\n" + "".join(f'"{line}",1\n' for line in LINES),
    "tsv": "text\tn\n" + "".join(f"{line}\t1\n" for line in LINES),
}


def texts(source, shard=0, shards=1, split="train", shuffle=False):
    dataset = source.get_dataset(split, shuffle, 3, seqio.ShardInfo(shard, shards))
    return [example["text"].decode() for example in dataset.as_numpy_iterator()]


@pytest.mark.parametrize("kind", list(CONTENT))
@pytest.mark.parametrize("ending", list(PACK))
def test_every_reader_reads_every_compression(kind, ending, tmp_path):
    path = tmp_path / f"a.{kind}.{ending}"
    path.write_bytes(PACK[ending](CONTENT[kind].encode()))
    assert texts(getattr(sources, kind)(path)) == LINES


def test_shards_splits_and_positions_are_those_of_the_same_file_unpacked(tmp_path):
    for number in range(2):
        part = CONTENT["jsonl"].replace("line", f"part {number}").encode()
        (tmp_path / f"plain-{number}").write_bytes(part)
        (tmp_path / f"packed-{number}.jsonl.gz").write_bytes(gzip.compress(part[:999]) + gzip.compress(part[999:]))
    plain = sources.jsonl(str(tmp_path / "plain-*"), held_out={"validation": 0.2})
    packed = sources.jsonl(str(tmp_path / "packed-*.jsonl.gz"), held_out={"validation": 0.2})
    assert texts(packed, split="validation") == texts(plain, split="validation")
    for shard in range(3):
        assert texts(packed, shard, 3, shuffle=True) == texts(plain, shard, 3, shuffle=True)
    whole = list(chain.from_iterable(texts(packed, shard, 3) for shard in range(3)))
    assert len(whole) == len(set(whole)) == packed.num_input_examples("train")
    iterator = iter(packed.get_dataset("train", True, 3).repeat())
    for _ in range(433):
        next(iterator)
    saved = tf.train.Checkpoint(iterator=iterator).save(str(tmp_path / "position"))
    ahead = [next(iterator)["text"].numpy() for _ in range(1500)]
    fresh = iter(packed.get_dataset("train", True, 3).repeat())
    tf.train.Checkpoint(iterator=fresh).restore(saved).assert_consumed()
    assert [next(fresh)["text"].numpy() for _ in range(1500)] == ahead


def test_a_file_is_unpacked_once_and_anew_when_it_changes(tmp_path, caplog):
    path, cache = tmp_path / "a.txt.gz", tmp_path / "cache" / "unpacked"
    path.write_bytes(gzip.compress(b"one\n"))
    assert texts(sources.text(path)) == texts(sources.text(path)) == ["one"]
    assert caplog.text.count("unpacking (gzip) once") == 1
    path.write_bytes(gzip.compress(b"two\nthree\n"))
    assert texts(sources.text(path)) == ["two", "three"]
    assert [copy.read_bytes() for copy in cache.iterdir()] == [b"two\nthree\n"]
    source = sources.text(path)
    source.num_input_examples("train")
    next(cache.iterdir()).unlink()
    assert texts(source) == ["two", "three"]


@pytest.mark.parametrize("ending", list(PACK))
def test_a_damaged_file_is_named_in_one_line_and_leaves_nothing(ending, tmp_path):
    packed = bytearray(PACK[ending](CONTENT["text"].encode()))
    (tmp_path / "cut").write_bytes(packed[: len(packed) // 2])
    for place in range(len(packed) // 3, 2 * len(packed) // 3):
        packed[place] ^= 0x55
    (tmp_path / "broken").write_bytes(packed)
    for name in ("cut", "broken"):
        with pytest.raises(UserError, match=f"{name}: is damaged or truncated") as caught:
            sources.text(tmp_path / name, on_bad="skip").num_input_examples("train")
        assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache" / "unpacked").iterdir())


def test_what_holds_no_text_is_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 0000000")
    with pytest.raises(UserError, match=r"a\.zip: zip files cannot be read; unpack the file first"):
        sources.text(tmp_path / "a.zip").num_input_examples("train")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(UserError, match=r"b\.gz: is empty after unpacking"):
        sources.text(tmp_path / "b.gz").num_input_examples("train")
    (tmp_path / "c.tar.gz").write_bytes(gzip.compress(b"a".ljust(257, b"\0") + b"ustar  \0" + b"\0" * 300))
    with pytest.raises(UserError, match=r"c\.tar\.gz: archives \(tar\) cannot be read"):
        sources.text(tmp_path / "c.tar.gz").num_input_examples("train")
    # A name does not make it compressed, nor do three letters.
    (tmp_path / "d.gz").write_text("BZh is no compressed file\n")
    assert texts(sources.text(tmp_path / "d.gz")) == ["BZh is no compressed file"]
