"""Targets that a vocabulary does not give back are told, with counts and the first difference."""

import json
import logging

import pytest

from t2t import tasks
from t2t.data.config import Data
from t2t.data.survival import lost, lost_of
from t2t.launch.main import run
from t2t.tasks import metrics, sources
from t2t.train.evaluation import Evaluation, evaluate
from t2t.vocabularies import Bytes, SentencePiece
from tests.decode.toy import ToyEncoderDecoderConfig, make
from tests.test_vocabularies import trained

TARGETS = ["the fox", "one\ntwo", "a  b", "the lazy dog"]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return SentencePiece(path=trained(tmp_path_factory.mktemp("survival") / "spiece.model"), extra_ids=4)


@pytest.fixture(scope="module", params=[True, False], ids=["compared", "not compared"])
def task(request, tmp_path_factory):
    """A task with line breaks and double spaces in its targets, with a metric that compares texts and without."""
    file = tmp_path_factory.mktemp("texts") / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"a": "again", "b": text}) for text in TARGETS), encoding="utf-8")
    compared = [metrics.exact_match] if request.param else []
    name = f"survival_{'compared' if request.param else 'alone'}"
    tasks.add(name, source=sources.jsonl(str(file)), inputs="a", targets="b", metrics=compared, replace=True)
    return name


def test_what_comes_back_otherwise_is_counted(vocabulary):
    found = lost(TARGETS, vocabulary)
    assert (found.count, found.looked_at, found.text, found.back) == (2, 4, "one\ntwo", "one two")
    assert "2 of 4 targets" in found.message("x")
    assert r"'one\ntwo'" in found.message("x")
    assert "'one two'" in found.message("x")
    assert lost(["the fox", "the lazy dog"], vocabulary) is None
    assert lost(TARGETS, Bytes()) is None


def test_the_first_difference_of_a_long_text_is_shown(vocabulary):
    told = lost(["the lazy dog " * 50 + "\nagain"], vocabulary).message("x")
    assert r"\nagain" in told
    assert len(told) < 300


def test_only_tasks_whose_metrics_compare_texts_are_told_of(task, vocabulary):
    data = Data(task=task, inputs_length=16, targets_length=16, vocabulary=vocabulary)
    lines = lost_of(data, "encoder_decoder")
    assert [line.startswith(f"task {task}: 2 of 4") for line in lines] == [True] * ("compared" in task)
    assert lost_of(Data(task=task, inputs_length=16, targets_length=16), "encoder_decoder") == []


def test_an_evaluation_warns_once(task, vocabulary, caplog):
    model, params = make(ToyEncoderDecoderConfig(vocab_size=384, sharpness=1.0))
    data = Data(task=task, inputs_length=8, targets_length=8, vocabulary=vocabulary)
    with caplog.at_level(logging.WARNING):
        evaluate(model, params, Evaluation(split="train", batch_size=4, samples=0), data)
    told = [record.message for record in caplog.records if "do not survive" in record.message]
    assert len(told) == ("compared" in task)


def test_t2t_tasks_tells(task, vocabulary, capsys):
    assert run(["tasks", task, "--vocabulary", vocabulary.path, "--examples", "1"]) == 0
    assert ("2 of 4 targets" in " ".join(capsys.readouterr().out.split())) == ("compared" in task)
