"""Values of an experiment changed by name."""

import pytest

from t2t.api.overrides import overridden
from t2t.api.recipes import find
from t2t.errors import UserError
from t2t.optim import AdamW, Constant
from t2t.vocabularies import Bytes


@pytest.fixture(scope="module")
def recipe():
    return find("t5:quickstart")()


def test_values_are_changed_at_any_depth(recipe):
    made = overridden(
        recipe,
        {
            "steps": 20,
            "batch_size": 8,
            "eval_every": 5,
            "optimizer.schedule.peak": 1e-3,
            "evaluation.tasks": ["a", "b"],
            "data.vocabulary": Bytes(extra_ids=3),
        },
    )
    assert (made.steps, made.data.batch_size, made.evaluation.every) == (20, 8, 5)
    assert made.optimizer.schedule.peak == 1e-3
    assert made.optimizer.schedule.warmup == recipe.optimizer.schedule.warmup
    assert made.evaluation.tasks == ("a", "b")
    assert made.data.vocabulary == Bytes(extra_ids=3)
    assert overridden(recipe, {}) == recipe


def test_a_part_is_replaced_and_then_changed(recipe):
    optimizer = AdamW(schedule=Constant(peak=1.0))
    made = overridden(recipe, {"optimizer.schedule.peak": 0.5, "optimizer": optimizer})
    assert made.optimizer == AdamW(schedule=Constant(peak=0.5))


def test_relations_are_checked_when_all_is_changed(recipe):
    """Either width alone does not fit the other stack's."""
    made = overridden(recipe, {"model.encoder.d_model": 64, "model.decoder.d_model": 64})
    assert made.model.encoder.d_model == made.model.decoder.d_model == 64


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stepz": 1}, r"t2t\.train: unknown option stepz\. Nearest: steps"),
        (
            {"optimizer.schedule.peek": 1.0},
            r"unknown option optimizer\.schedule\.peek\. Nearest: optimizer\.schedule\.peak",
        ),
        ({"learning_rate": 1.0}, r"unknown option learning_rate\. Nearest: optimizer\.schedule\.peak\."),
        ({"steps.more": 1}, r"unknown option steps\.more\."),
        ({"steps": "many"}, r"t2t\.train: steps 'many' is not int\."),
        ({"data.pack": 1}, r"data\.pack 1 is not bool\."),
        ({"optimizer": "adamw"}, r"optimizer 'adamw' is not OptimizerConfig\."),
        ({"steps": 0}, r"steps 0 \(t2t\.train: steps\) is not a whole number from 1 .* Nearest: 1\."),
        ({"batch_size": -3}, r"batch_size -3 \(t2t\.train: data\.batch_size\) is not"),
        (
            {"batch_size": 8, "data.batch_size": 8},
            r"batch_size and data\.batch_size are the same option\. Give only one\.",
        ),
        ({"model.encoder.num_heads": 0}, r"num_heads 0 \(t2t\.train: model\.encoder\.num_heads\) is not"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest(recipe, values, said):
    with pytest.raises(UserError, match=said) as error:
        overridden(recipe, values)
    assert "\n" not in str(error.value)


def test_layers_of_a_pattern_are_changed_by_their_number(recipe):
    from t2t.api.option_names import option_names

    numbered = [name for name, _ in option_names(find("gpt:quickstart")()) if ".0." in name]
    assert numbered == []  # one layer is no pattern
    with pytest.raises(UserError, match=r"unknown option evaluation\.tasks\.7\."):
        overridden(recipe, {"evaluation.tasks.7": "x"})
    assert overridden(recipe, {"evaluation.tasks.0": "x"}).evaluation.tasks == ("x",)
