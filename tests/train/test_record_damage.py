"""run.json that is damaged, or made by somebody: read rightly or refused in one line."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2t.api.importing import experiment_for
from t2t.train.run import RunRecord, open_run, read_record
from t2t.train.run_checksums import CHECKSUMS
from t2t.vocabularies import Tokenizer
from tests.damage import changed_bytes, changed_json, told
from tests.models.tiny import config
from tests.test_tokenizer import byte_level


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs without checksums, so that what run.json holds is read."""
    place = tmp_path_factory.mktemp("runs")
    byte_level(place / "v.json")
    vocabulary = Tokenizer(path=str(place / "v.json"), eos="<|endoftext|>")
    for name in ("t5", "bert", "llama"):
        experiment = experiment_for(config(name, vocab_size=304))
        open_run(place / name, RunRecord(recipe="r", experiment=experiment, vocabulary=vocabulary))
        (place / name / CHECKSUMS).unlink()
    return place


@pytest.mark.parametrize("examples", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_whatever_it_holds_it_is_read_or_refused_in_one_line(runs, examples):
    @settings(max_examples=examples, deadline=None)
    @given(st.data())
    def check(data):
        directory = runs / data.draw(st.sampled_from(("t5", "bert", "llama")))
        path = directory / "run.json"
        whole = path.read_bytes()
        try:
            path.write_bytes(data.draw(st.one_of(changed_json(json.loads(whole)), changed_bytes(whole))))
            told(lambda: read_record(directory).vocabulary.in_directory(str(directory / "vocabulary")))
        finally:
            path.write_bytes(whole)

    check()
