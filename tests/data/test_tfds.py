"""Data sets of TensorFlow Datasets: a small one is downloaded from a server and prepared; what cannot be is told in one line."""

import hashlib
import http.server
import importlib
import json
import os
import threading

import pytest
import seqio
import tensorflow_datasets as tfds

from t2t import tasks
from t2t.data.config import Data
from t2t.data.pipeline import evaluation_batches
from t2t.errors import Failure, UserError
from t2t.launch import main
from t2t.tasks import sources

ROWS = "".join(json.dumps({"text": f"text {i}", "label": i % 2}) + "\n" for i in range(20)).encode()
BUILDER = """
import json
import tensorflow_datasets as tfds

class {name}(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({{"text": tfds.features.Text(), "label": tfds.features.ClassLabel(num_classes=2)}})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, dl_manager):
        path = dl_manager.download({url!r})
        return {{"train": self._generate_examples(path, 0, 15), "test": self._generate_examples(path, 15, 20)}}

    def _generate_examples(self, path, first, last):
        for i, line in enumerate(path.read_text().splitlines()[first:last]):
            yield i, json.loads(line)
"""


@pytest.fixture
def address(tmp_path):
    """A server of one file, on this machine alone."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "rows.jsonl").write_bytes(ROWS)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/rows.jsonl"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def directory(tmp_path):
    """The directory of data sets, as --data-dir has it."""
    seqio.set_tfds_data_dir_override(str(tmp_path / "sets"))
    seqio.utils.LazyTfdsLoader._MEMOIZED_BUILDERS.clear()
    yield tmp_path / "sets"
    seqio.set_tfds_data_dir_override(None)
    seqio.utils.LazyTfdsLoader._MEMOIZED_BUILDERS.clear()


@pytest.fixture
def define(tmp_path, monkeypatch):
    """Write a data set's package with its checksums and import it, which registers it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def defined(name, url, checksum):
        package = tmp_path / name
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "checksums.tsv").write_text(f"{url}\t{len(ROWS)}\t{checksum}\trows.jsonl\n")
        (package / f"{name}_dataset_builder.py").write_text(BUILDER.format(name=name.title().replace("_", ""), url=url))
        importlib.invalidate_caches()
        importlib.import_module(f"{name}.{name}_dataset_builder")

    return defined


def texts(name, split):
    data = Data(task=name, inputs_length=32, targets_length=8, batch_size=4, split=split)
    return [
        raw["inputs_pretokenized"].decode() for _, raws in evaluation_batches(data, "encoder_decoder") for raw in raws
    ]


@pytest.mark.parametrize("splits", [None, ["train", "test"]])
def test_a_set_is_downloaded_checked_and_prepared_when_it_is_first_read(
    splits, address, define, tmp_path, directory, caplog, capsys
):
    name = "tiny_set" if splits is None else "tiny_set_of_splits"
    define(name, address, hashlib.sha256(ROWS).hexdigest())
    source = sources.tfds(f"{name}:1.0.0", splits=splits)
    tasks.add("td_set", source=source, inputs="text", targets="label", labels=["no", "yes"], replace=True)
    if splits:
        assert tasks.describe("td_set").splits == {"train": None, "test": None}
    assert sorted(texts("td_set", "test")) == sorted(f"text {i}" for i in range(15, 20))
    assert f"is not prepared in {directory}/{name}/1.0.0: downloading and preparing it now" in caplog.text
    assert tasks.describe("td_set").splits == {"train": 15, "test": 5}
    assert not capsys.readouterr().out  # results alone go there
    (tmp_path / "served" / "rows.jsonl").unlink()  # prepared, it is read from where it lies
    seqio.utils.LazyTfdsLoader._MEMOIZED_BUILDERS.clear()
    assert len(texts("td_set", "train")) == 15


def test_a_download_with_another_checksum_is_a_failure_of_one_line(address, define):
    define("wrong_set", address, "0" * 64)
    tasks.add("td_wrong", source=sources.tfds("wrong_set:1.0.0"), inputs="text", targets="text", replace=True)
    with pytest.raises(
        Failure, match=r"data set 'wrong_set:1\.0\.0' is not prepared .*NonMatchingChecksumError"
    ) as caught:
        texts("td_wrong", "train")
    assert "\n" not in str(caught.value)


def test_a_server_that_has_no_such_file_is_a_failure_of_one_line(address, define):
    define("lost_set", address + ".gone", hashlib.sha256(ROWS).hexdigest())
    tasks.add("td_lost", source=sources.tfds("lost_set:1.0.0"), inputs="text", targets="text", replace=True)
    with pytest.raises(Failure, match=r"data set 'lost_set:1\.0\.0' is not prepared .*DownloadError"):
        texts("td_lost", "train")


def test_c4_is_never_prepared_on_the_way(directory, monkeypatch):
    monkeypatch.setattr(tfds.core.dataset_info.DatasetInfo, "initialize_from_bucket", lambda self: None)
    told = r"data set 'c4/en:3\.1\.0' is not prepared in .*/c4/en/3\.1\.0 \(--data-dir, T2T_DATA_DIR .*`tfds build c4/en:3\.1\.0 --data_dir"
    with pytest.raises(UserError, match=told) as caught:
        texts("c4_span_corruption", "train")
    assert "\n" not in str(caught.value)
    assert set(tasks.describe("c4_span_corruption").splits.values()) == {None}
    (directory / "c4" / "en" / "3.0.1").mkdir(parents=True)
    with pytest.raises(UserError, match=r"Nearest: version 3\.0\.1, which exists"):
        texts("c4_span_corruption", "train")


@pytest.mark.parametrize(
    ("name", "said"),
    [("no_such_set_of_ours:1.0.0", "no_such_set_of_ours"), ("c4/en:9.9.9", "9.9.9"), ("c4/xx:3.1.0", "xx")],
)
def test_a_set_version_or_configuration_that_there_is_not(name, said):
    tasks.add("td_unknown", source=sources.tfds(name), inputs="text", targets="text", replace=True)
    with pytest.raises(UserError, match=f"data set '{name}' of TFDS: .*{said}") as caught:
        texts("td_unknown", "train")
    assert "\n" not in str(caught.value)


def test_the_directory_is_an_option_of_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("T2T_DATA_DIR", "")
    for words, told in (
        (["--data-dir", "~/sets"], os.path.expanduser("~/sets")),
        (["--data-dir=gs://bucket/sets"], "gs://bucket/sets"),
    ):
        assert main.run(["--version", *words]) == 0
        assert os.environ["T2T_DATA_DIR"] == told
    (tmp_path / "file").touch()
    for directory in (str(tmp_path / "file"), ""):
        assert main.run(["tasks", "--data-dir", directory]) == 2
    assert capsys.readouterr().err.count("error: --data-dir") == 2
