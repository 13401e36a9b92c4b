"""Training stops where it gets no better."""

import json

import pytest

from t2t.errors import UserError
from t2t.train.callbacks import Control, EvaluationFacts
from t2t.train.early_stopping import EarlyStopping


def stops(stopping, values, directory, *, first=1):
    """Return the evaluation at which it asks for a stop, None where it does not."""
    for step, value in enumerate(values, start=first):
        facts = EvaluationFacts(directory=directory, step=step, total=99, results=(), metrics={"eval/loss": value})
        if stopping.on_evaluation(facts, Control(lambda: None)):
            return step
    return None


@pytest.mark.parametrize(
    ("options", "values", "expected"),
    [
        ({"patience": 2}, [3.0, 2.0, 2.5, 2.4, 1.0], 4),
        ({"patience": 2}, [3.0, 2.0, 2.5, 1.9, 2.0, 1.8], None),
        ({"patience": 1}, [1.0, 1.0], 2),
        ({"patience": 2, "mode": "max"}, [1.0, 2.0, 1.0, 2.0], 4),
        ({"patience": 2, "min_delta": 0.5}, [3.0, 2.9, 2.8], 3),
        ({"patience": 2, "min_delta": 0.1}, [3.0, 2.8, 2.6], None),
        ({"patience": 2}, [3.0, float("nan"), float("nan")], 3),
    ],
)
def test_it_stops_after_evaluations_without_improvement(options, values, expected, tmp_path):
    assert stops(EarlyStopping(**options), values, tmp_path) == expected


def test_evaluations_before_the_run_was_resumed_count(tmp_path):
    lines = [{"step": step, "eval/loss": value} for step, value in ((1, 1.0), (2, 2.0), (3, 2.0))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert stops(EarlyStopping(patience=2), [2.0], tmp_path, first=3) == 3
    assert stops(EarlyStopping(patience=3), [2.0], tmp_path, first=3) is None
    # The line of the evaluation itself is there already, and is not counted twice.
    assert stops(EarlyStopping(patience=3), [2.0], tmp_path, first=4) == 4


def test_evaluations_after_the_step_that_a_run_went_back_to_do_not_count(tmp_path):
    stopping = EarlyStopping(patience=2)
    assert stops(stopping, [1.0, 2.0], tmp_path) is None
    assert stops(stopping, [0.5, 0.6], tmp_path, first=2) is None


def test_mistakes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"no metric 'eval/los' \(metric\)\. Nearest: eval/loss\."):
        stops(EarlyStopping(metric="eval/los"), [1.0], tmp_path)
    with pytest.raises(UserError, match="patience 0"):
        EarlyStopping(patience=0)
    with pytest.raises(UserError, match="mode 'least'"):
        EarlyStopping(mode="least")
