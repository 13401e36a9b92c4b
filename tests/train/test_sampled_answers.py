"""pass@k and majority votes, against enumeration and hand-computed numbers."""

import functools
import itertools
from decimal import Decimal

import numpy as np
import pytest

from t2t.decode import Sampling
from t2t.errors import UserError
from t2t.tasks import metrics
from t2t.tasks.word_problems import final_number
from t2t.train.evaluation import evaluate
from t2t.train.sampled_answers import majority, of_several, pass_at_k
from tests.train.test_evaluation import data, encoder_decoder, evaluation, register


@pytest.mark.parametrize(("samples", "right"), [(5, 0), (5, 2), (6, 4), (4, 4)])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(samples, right):
    marks = [True] * right + [False] * (samples - right)
    for k in range(1, samples + 1):
        subsets = list(itertools.combinations(marks, k))
        assert pass_at_k(samples, right, k) == pytest.approx(np.mean([any(some) for some in subsets]))
    with pytest.raises(UserError, match=rf"pass@{samples + 1}: .* Nearest: {samples}"):
        pass_at_k(samples, right, samples + 1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She sells 9 eggs.\n#### 18", "18"),
        ("#### 1,450 dollars, so 3 more", "1450"),
        ("The answer is $18.00.", "18"),
        ("first 3, then -4", "-4"),
        ("a half: .5", "0.5"),
        ("#### 0", "0"),
        ("no idea", None),
        ("12 eggs #### none", None),
    ],
)
def test_the_final_number_of_a_solution(text, number):
    assert final_number(text) == (None if number is None else Decimal(number))


def test_numbers_match_by_value_and_targets_must_have_one():
    assert metrics.number_match(["#### 18", "#### 7"], ["so 18.0", "so 8"]) == {"number_match": 0.5}
    with pytest.raises(UserError, match=r"number_match: the target 'none' has no number"):
        metrics.number_match(["none"], ["3"])
    with pytest.raises(UserError, match=r"number_match: 1 targets and 0 predictions"):
        metrics.number_match(["1"], [])


def test_the_vote_is_for_final_numbers_not_for_texts():
    answers = ["2 + 2 is 5", "it is 4", "so 4.0", "5, no: 4", "nothing"]
    assert majority(metrics.number_match, answers) == 1
    assert majority(metrics.exact_match, ["a", "b", "b", "a"]) == 0  # the first of equally frequent ones
    assert majority(metrics.number_match, ["nothing", "none"]) == 0
    found, right = of_several([functools.partial(metrics.number_match)], ["#### 4"], [answers])
    assert right == [[False, True, True, True, False]]
    assert found == {
        "pass@1": pytest.approx(0.6),
        "pass@2": pytest.approx(0.9),
        "pass@4": 1.0,
        "pass@5": 1.0,
        "majority@5": 1.0,
    }
    # Without a metric that judges single answers, an answer is right if it equals the target.
    assert of_several([metrics.bleu], ["a b"], [["a", "a b", "a b"]])[0]["majority@3"] == 1.0


def test_an_evaluation_with_samples_judges_each_of_them():
    task = register("eval_samples", metrics=[metrics.exact_match])
    model, params = encoder_decoder()
    sampled = evaluation(decoding=Sampling(samples=3, temperature=0.7))
    (result,) = evaluate(model, params, sampled, data(task))
    (again,) = evaluate(model, params, evaluation(decoding=sampled.decoding, batch_size=5), data(task))
    made = [[row["answers"] for row in one.predictions] for one in (result, again)]
    assert made[0] == made[1]  # samples do not depend on batches
    right = [row["answers_right"] for row in result.predictions]
    for row in result.predictions:
        assert row["answers_right"] == [answer == row["targets"] for answer in row["answers"]]
        assert row["prediction"] == row["answers"][0]
    assert result.metrics["pass@1"] == pytest.approx(np.mean(right))
    assert result.metrics["pass@3"] == pytest.approx(np.mean(np.any(right, axis=1)))
    assert {"pass@2", "majority@3"} <= set(result.metrics)
    (greedy,) = evaluate(model, params, evaluation(), data(task))
    assert not [name for name in greedy.metrics if "@" in name]
