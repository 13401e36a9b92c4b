"""A run that an earlier version of a recipe began is resumed by the same command; new runs have the recipe's values of today."""

from dataclasses import replace

import pytest

from t2t.api.earlier_recipes import CHANGED, as_begun
from t2t.api.overrides import overridden
from t2t.api.recipes import find
from t2t.train.run import RunRecord, open_run
from t2t.vocabularies import Bytes


def begin(directory, recipe, experiment):
    return open_run(directory, RunRecord(recipe=recipe, experiment=experiment, vocabulary=Bytes()))


@pytest.mark.parametrize("recipe", CHANGED)
def test_a_run_of_the_former_values_keeps_them(recipe, tmp_path):
    now = find(recipe)()
    former = overridden(now, CHANGED[recipe])
    assert former != now
    begin(tmp_path, recipe, replace(former, steps=60, log_every=5))
    assert as_begun(recipe, now, tmp_path) == former


@pytest.mark.parametrize("recipe", CHANGED)
def test_other_runs_have_the_values_of_today(recipe, tmp_path):
    now = find(recipe)()
    assert as_begun(recipe, now, tmp_path / "new") == now
    begin(tmp_path / "same", recipe, now)
    assert as_begun(recipe, now, tmp_path / "same") == now
    begin(tmp_path / "other", "mine.py:recipe", overridden(now, CHANGED[recipe]))
    assert as_begun(recipe, now, tmp_path / "other") == now


def test_a_value_that_the_user_chose_is_not_taken_from_the_run(tmp_path):
    now = find("t5:quickstart")()
    begin(tmp_path, "t5:quickstart", overridden(now, {"optimizer.schedule.peak": 1e-3}))
    assert as_begun("t5:quickstart", now, tmp_path) == now
