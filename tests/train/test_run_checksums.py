"""RUN/checksums.json: run.json and the vocabulary are what was written, whenever the machine died."""

import dataclasses
import json
import shutil

import pytest

from t2t.api.importing import experiment_for
from t2t.errors import UserError
from t2t.train import run_checksums
from t2t.train.run import RunRecord, open_run, read_record
from t2t.train.run_checksums import CHECKSUMS
from t2t.vocabularies import Tokenizer
from tests.models.tiny import config
from tests.test_tokenizer import byte_level


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A run that has begun, and its record; not to be changed."""
    place = tmp_path_factory.mktemp("run")
    byte_level(place / "v.json")
    vocabulary = Tokenizer(path=str(place / "v.json"), eos="<|endoftext|>")
    record = RunRecord(recipe="r", experiment=experiment_for(config("gpt", vocab_size=304)), vocabulary=vocabulary)
    open_run(place / "run", record)
    (place / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    return place / "run", record


@pytest.fixture
def run(written, tmp_path):
    """A copy of the directory, to be changed, and the record."""
    return shutil.copytree(written[0], tmp_path / "run"), written[1]


def test_a_run_is_read_as_it_was_written(run):
    directory, record = run
    assert read_record(directory).experiment == record.experiment
    assert set(json.loads((directory / CHECKSUMS).read_text())) == {"run.json", "vocabulary/v.json"}
    open_run(directory, dataclasses.replace(record, experiment=dataclasses.replace(record.experiment, steps=2000)))
    assert read_record(directory).experiment.steps == 2000


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["run.json", "vocabulary/v.json"])
def test_damage_is_named_and_how_to_accept_it(run, name):
    directory, record = run
    flip(directory / name)
    for use in (lambda: read_record(directory), lambda: open_run(directory, record)):
        with pytest.raises(
            UserError, match=rf"{name}: the file has changed since it was written .*delete .*/{CHECKSUMS}"
        ):
            use()


def test_what_a_user_changed_on_purpose_is_accepted_as_the_error_says(run):
    directory, record = run
    text = (directory / "run.json").read_text()
    (directory / "run.json").write_text(text.replace('"log_every": 10,', '"log_every": 20,'))
    with pytest.raises(UserError, match="on purpose"):
        read_record(directory)
    (directory / CHECKSUMS).unlink()
    assert read_record(directory).experiment.log_every == 20
    open_run(directory, record)
    assert (directory / CHECKSUMS).is_file()
    read_record(directory)


def test_a_file_that_is_missing_or_new_is_damage(run, tmp_path):
    directory, _ = run
    (directory / "vocabulary" / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"vocabulary/other\.json: .* does not list this file"):
        read_record(directory)
    (directory / "vocabulary" / "other.json").rename(directory / "vocabulary" / ".DS_Store")
    read_record(directory)  # a file of the system's
    (directory / "vocabulary" / "v.json").unlink()
    with pytest.raises(UserError, match=r"vocabulary/v\.json: the file is missing"):
        read_record(directory)


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"run.json": 5}', '{"../x": [1, "a"]}', "[" * 100_000])
def test_checksums_that_are_none_are_damage(run, content):
    directory, _ = run
    (directory / CHECKSUMS).write_text(content)
    with pytest.raises(UserError, match=CHECKSUMS) as told:
        read_record(directory)
    assert "\n" not in str(told.value)


def test_a_run_without_checksums_is_read(run):
    directory, _ = run
    (directory / CHECKSUMS).unlink()
    flip(directory / "vocabulary" / "v.json")
    read_record(directory)


class Died(BaseException):
    pass


@pytest.mark.parametrize("writes", range(7))
def test_a_death_at_any_write_leaves_a_run_that_can_be_read(run, monkeypatch, writes):
    directory, record = run
    longer = dataclasses.replace(record, experiment=dataclasses.replace(record.experiment, steps=2000))
    left = [writes]
    real = run_checksums._replace

    def replace(path, content):
        # Dies before the write, or within it, when the content is there under another name.
        if left[0] == 0:
            raise Died
        if left[0] == 1:
            path.with_name(f"{path.name}.partial").write_bytes(content[: len(content) // 2])
            raise Died
        left[0] -= 2
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(run_checksums, "_replace", replace)
        try:
            open_run(directory, longer)
        except Died:
            assert writes < 6
        else:
            assert writes == 6
    assert read_record(directory).experiment.steps == (1000 if writes < 4 else 2000)
    open_run(directory, longer)
    assert read_record(directory).experiment.steps == 2000
    assert not (directory / "checksums.next.json").exists()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "link"])
def test_a_vocabulary_outside_of_the_run_is_refused(run, tmp_path, path):
    directory, _ = run
    (tmp_path / "secret").write_text("private key")
    (directory / CHECKSUMS).unlink()
    (directory / "vocabulary" / "link").symlink_to(tmp_path / "secret")
    changed = json.loads((directory / "run.json").read_text())
    changed["vocabulary"]["path"] = path
    (directory / "run.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=r"the vocabulary of .*run/vocabulary: "):
        read_record(directory).vocabulary.in_directory(str(directory / "vocabulary"))
