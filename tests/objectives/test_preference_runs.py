"""Real, tiny trainings on pairs of answers: a resumed one equals an uninterrupted one, for a reference that is a run and for a model without its adapter."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from t2t import tasks
from t2t.adapters import Adapter
from t2t.api.recipes import preferences_of
from t2t.objectives import Preference
from t2t.tasks import sources
from t2t.train.run import SavedRun
from tests.train.test_frozen_runs import TINY, assert_equal, losses, params, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run of two steps, and the task "tiny_pairs"."""
    folder = tmp_path_factory.mktemp("preferences")
    rows = [{"q": f"{i}", "good": f"{i} {i}", "bad": f"{i}, {i}"} for i in range(40)]
    for split, some in {"train": rows[:32], "validation": rows[32:]}.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    source = sources.jsonl({split: folder / f"{split}.jsonl" for split in ("train", "validation")})
    tasks.add_preferences("tiny_pairs", source=source, inputs="q", chosen="good", rejected="bad", replace=True)
    run(folder / "start", replace(TINY, steps=2, seed=5))
    return folder / "start"


@pytest.mark.parametrize("adapter", [False, True], ids=["run", "adapter"])
def test_resumed_equals_uninterrupted_and_the_first_loss_is_the_logarithm_of_two(adapter, start, tmp_path):
    made = preferences_of(str(start))
    data = replace(made.data, task="tiny_pairs", split="train", inputs_length=16, targets_length=16, batch_size=8)
    evaluation = replace(TINY.evaluation, tasks=("tiny_pairs",), examples=8)
    experiment = replace(TINY, data=data, objective=made.objective, start_from=made.start_from, evaluation=evaluation)
    if adapter:
        own = Adapter(rank=2, targets=("**/attention/*",))
        experiment = replace(experiment, adapter=own, objective=Preference(reference=None))
    run(tmp_path / "whole", experiment)
    run(tmp_path / "halves", replace(experiment, steps=2))
    run(tmp_path / "halves", experiment)
    assert_equal(params(tmp_path / "whole"), params(tmp_path / "halves"))
    assert losses(tmp_path / "whole")[0] == pytest.approx(math.log(2), rel=1e-5)
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "eval/tiny_pairs/pair_accuracy" in line)
    assert {"eval/tiny_pairs/objective", "eval/tiny_pairs/reward_margin"} <= set(last)
    assert isinstance(SavedRun.load(tmp_path / "whole").experiment.objective, Preference)
