"""Tasks of preferences: their features, and what evaluation reports of them."""

import json
import logging

import numpy as np
import pytest

from t2t import tasks
from t2t.data.config import Data
from t2t.data.pipeline import evaluation_batches
from t2t.errors import UserError
from t2t.objectives import CrossEntropy, Preference
from t2t.objectives.objective import Teacher
from t2t.tasks import metrics, sources
from t2t.train.evaluation import Evaluation, Evaluator
from t2t.vocabularies import Bytes
from tests.models.tiny import config, params_of

ROWS = [
    {"q": "ab", "good": "ba", "bad": "ab"},
    {"q": "c", "good": "c", "bad": "cc"},
    {"q": "dd", "good": "d", "bad": ""},
]
BYTES = Bytes()
DATA = Data(task="preferences", inputs_length=8, targets_length=6, batch_size=2, split="validation", vocabulary=BYTES)


@pytest.fixture(autouse=True)
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    source = sources.jsonl({"validation": tmp_path / "a.jsonl"})
    tasks.add_preferences(
        "preferences",
        source=source,
        inputs="q",
        chosen="good",
        rejected="bad",
        prefix="x",
        metrics=[metrics.exact_match],
        replace=True,
    )


def ids(text):
    return [*BYTES.encode(text), BYTES.eos_id]


@pytest.mark.parametrize("kind", ["decoder", "encoder_decoder"])
def test_a_row_has_both_answers_and_other_objectives_see_the_preferred_one(kind):
    batch, raws = next(iter(evaluation_batches(DATA, kind, 3, convert=Preference().converter)))
    targets, segments, weights = (np.asarray(x) for x in (batch.targets, batch.decoder.segments, batch.weights))
    for row, texts in enumerate(ROWS):
        for segment, answer in ((1, texts["good"]), (2, texts["bad"])):
            at = (segments[row] == segment) & (weights[row] > 0)
            assert targets[row, at].tolist() == ids(answer)  # the empty answer is an EOS
    alone, _ = next(iter(evaluation_batches(DATA, kind, 3, convert=CrossEntropy().converter)))
    assert np.asarray(alone.weights).sum() == sum(len(ids(row["good"])) for row in ROWS)
    assert [raw["rejected_pretokenized"] for raw in raws] == [row["bad"].encode() for row in ROWS]


def evaluated(objective, teacher=None):
    model, params = params_of(config("llama", vocab_size=BYTES.size))
    evaluation = Evaluation(tasks=("preferences",), batch_size=2)
    evaluator = Evaluator(model, evaluation, DATA, objective)
    (result,) = evaluator.evaluate(params, teacher=Teacher(model, params) if teacher else None)
    return result.metrics


def test_evaluation_reports_the_pairs_beside_the_metrics_of_the_preferred_answers(caplog):
    plain, pairs = evaluated(None), evaluated(Preference(reference="some"), teacher=True)
    assert {name: pairs[name] for name in plain} == plain
    assert pairs["objective"] == pytest.approx(np.log(2), rel=1e-5)
    assert {"pair_accuracy", "reward_margin", "log_prob_chosen"} <= set(pairs)
    with caplog.at_level(logging.WARNING):
        assert evaluated(Preference(reference="some")) == plain
    assert "the objective is not evaluated, because it compares with another model" in caplog.text
    assert {"pair_accuracy", "log_prob_rejected"} <= set(evaluated(Preference(kind="simpo")))


def test_a_task_without_pairs_is_refused(tmp_path):
    tasks.add(
        "no_pairs", source=sources.jsonl({"validation": tmp_path / "a.jsonl"}), inputs="q", targets="good", replace=True
    )
    with pytest.raises(UserError, match=r"task 'no_pairs' has no feature 'rejected', which the objective needs"):
        evaluation_batches(Data(task="no_pairs", split="validation"), "decoder", 2, convert=Preference().converter)
