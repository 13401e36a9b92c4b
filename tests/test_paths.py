import os
from pathlib import Path

import pytest

from t2t.api.vocabulary_file import vocabulary_of
from t2t.checkpoint import Checkpoints
from t2t.data import Data
from t2t.errors import UserError
from t2t.export import directory
from t2t.launch.launch import check_paths
from t2t.launch.main import run
from t2t.paths import check, check_directory, check_output, misspelled
from t2t.tasks.sources import csv
from t2t.tasks.vocabulary_training import train_vocabulary
from t2t.train.experiment import StartFrom
from t2t.train.run import SavedRun, open_run
from t2t.vocabularies import SentencePiece

URLS = ["gs://bucket/x", "s3://bucket/x", "http://127.0.0.1:9/x", "hdfs:///x", "abfs+tls://x", "file:///tmp/x"]


@pytest.mark.parametrize(
    "path", [*URLS, "gs:/bucket/x", "", "a\nb", "a\x00b", "a\x7fb", "n" * 256, "a/" * 2100 + "b", "\ud800"]
)
def test_what_cannot_be_a_path_is_refused_in_one_line(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for checked in (check, check_directory, check_output):
        with pytest.raises(UserError, match=r"\(--dir\)") as caught:
            checked(path, "--dir")
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["a", "./a:b/c", "/x y/é", "C:/x", "from:x", "a:b"])
def test_what_is_a_path_is_not(path):
    assert misspelled(path) is None


def test_the_nearest_of_a_url_is_a_path():
    assert misspelled("gs://b/x").endswith("Mount the bucket (with gcsfuse). Nearest: /mnt/b/x.")
    assert misspelled("https://b/x.model").endswith("Download it first. Nearest: x.model.")
    assert misspelled("file:///tmp/x").endswith("Nearest: /tmp/x.")


def test_links_in_a_loop_and_files_in_place_of_directories(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"loop \(--out\): its links form a loop"):
        check(tmp_path / "loop", "--out")
    with pytest.raises(UserError, match=r"file/x/y \(--out\): .*file is a file, not a directory"):
        check(tmp_path / "file" / "x" / "y", "--out")
    with pytest.raises(UserError, match=r"file \(--dir\) is a file, not a directory"):
        check_directory(tmp_path / "file", "--dir")
    with pytest.raises(UserError, match=r"\(--out\): no such directory .*nowhere"):
        check_output(tmp_path / "nowhere" / "x", "--out")
    with pytest.raises(UserError, match=r"\(--out\) is a directory"):
        check_output(tmp_path, "--out")
    assert check_output(tmp_path / "new", "--out") == tmp_path / "new"
    assert check_directory(tmp_path / "new" / "dir", "--dir") == tmp_path / "new" / "dir"


@pytest.mark.parametrize("path", URLS)
def test_python_entry_points_refuse_urls(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: Checkpoints(path),
        lambda: SavedRun.load(path),
        lambda: open_run(check_directory(path, "--dir"), None),
        lambda: Data(task="some", cached=path),
        lambda: StartFrom(run=path),
        lambda: SentencePiece(path=path),
        lambda: directory.check(Path(path), overwrite=False),
        lambda: train_vocabulary("reverse_words", size=300, out=path),
        lambda: vocabulary_of(path),
        lambda: csv({"train": path}).paths("train"),
    ):
        with pytest.raises(UserError, match="is a URL"):
            call()
    assert os.listdir(tmp_path) == []


BAD = ["gs://bucket/x", "line\nbreak", "n" * 300]


@pytest.mark.parametrize("path", BAD, ids=["url", "line", "long"])
@pytest.mark.parametrize(
    "words",
    [
        "train t5:quickstart --dir PATH",
        "train t5:quickstart --dir run --vocabulary PATH",
        "train t5:quickstart --dir run --data.cached PATH",
        "train t5:quickstart --dir run --start-from.run PATH",
        "train from:PATH --dir run",
        "eval PATH",
        "infer PATH --text a",
        "infer run --text a --output PATH",
        "infer run --input PATH",
        "plan t5:quickstart --topology v5e:2x2 --json PATH",
        "bench step t5:quickstart --out PATH",
        "bench step t5:quickstart --scratch PATH",
        "bench --compare PATH b.json",
        "export run --format safetensors --out PATH",
        "export PATH --format safetensors --out out",
        "import PATH --dir run",
        "import . --dir PATH",
        "profile PATH",
        "tasks reverse_words --vocabulary PATH",
        "grid small --dir PATH",
        "cache reverse_words --out PATH",
        "vocab reverse_words --size 300 --out PATH",
        "launch local -- train t5:quickstart --dir PATH",
        "launch slurm --dry-run -- train t5:quickstart --dir=PATH",
        "launch slurm --dry-run --chdir PATH -- train t5:quickstart --dir run",
        "launch kubernetes --image i --volume-claim runs --dry-run -- train t5:quickstart --dir PATH",
        "launch tpu-vm --dry-run -- train from:PATH --dir run",
    ],
)
def test_every_command_refuses_them_in_one_line(words, path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run([word.replace("PATH", path) for word in words.split()]) == 2
    written = capsys.readouterr()
    assert len(written.err.splitlines()) == 1
    assert ("is a URL" in written.err) == (path == BAD[0])
    assert written.out == ""
    assert os.listdir(tmp_path) == []


def test_a_launcher_looks_at_the_paths_of_the_command_it_starts():
    check_paths(["train", "t5:quickstart", "--dir", "/runs/a", "--steps", "3"])
    for words in (
        ["--dir", "gs://b/x"],
        ["--data.cached=s3://b"],
        ["--vocabulary", "http://a/b.model"],
        ["discriminator:gs://x"],
        ["encoder-decoder:/runs/a,gs://x"],
    ):
        with pytest.raises(UserError, match="is a URL"):
            check_paths(["train", "t5:quickstart", *words])
