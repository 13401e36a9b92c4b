"""Trainings whose batches grow."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from t2t.checkpoint import CheckpointConfig
from t2t.data.pipeline import batches
from t2t.errors import UserError
from t2t.optim import AdamW, Linear
from t2t.train.experiment import check
from t2t.train.loop import Outcome
from t2t.train.program import Program
from t2t.train.run import SavedRun
from tests.train.test_frozen_runs import run
from tests.train.test_guard import TINY as BASE

RAMP = "0:8,2:16,3:24"
TINY = replace(
    BASE,
    data=replace(BASE.data, batch_size=24, batch_ramp=RAMP),
    optimizer=AdamW(schedule=Linear(peak=1e-3, steps=5)),
    steps=5,
    log_every=1,
    checkpoint=CheckpointConfig(every=1, keep_last=9),
)


def logged(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def assert_same(one: Path, other: Path, step: int) -> None:
    params = [SavedRun.load(directory, step).params() for directory in (one, other)]
    for left, right in zip(*map(jax.tree.leaves, params), strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory, compiled = tmp_path_factory.mktemp("runs") / "whole", Program.compiled
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Program, "compiled", lambda self, batch: (sizes.append(len(batch.targets)), compiled(self, batch))[1]
        )
        assert run(directory, TINY) == Outcome(step=5, stopped=False)
    assert sizes == [8, 16, 24], "each size is compiled once"
    return directory


@pytest.mark.slow
def test_tokens_grow_and_the_learning_rate_is_that_of_the_step(whole):
    tokens = [line["tokens_per_second"] * line["step_seconds"] for line in logged(whole)]
    made = [next(data) for data in [batches(TINY.resolved_data(), TINY.model.kind)] for _ in range(5)]
    streams = [[stream for stream in (batch.encoder, batch.decoder) if stream is not None] for batch in made]
    np.testing.assert_allclose(tokens, [sum((one.segments > 0).sum() for one in found) for found in streams], rtol=1e-5)
    rates = [line["learning_rate"] for line in logged(whole)]
    np.testing.assert_allclose(rates, 1e-3 * (1 - np.arange(5) / 5), rtol=1e-5)


@pytest.mark.slow
def test_the_first_steps_are_those_of_a_run_with_small_batches(whole, tmp_path):
    run(tmp_path / "small", replace(TINY, data=replace(TINY.data, batch_size=8, batch_ramp=None), steps=2))
    assert_same(whole, tmp_path / "small", 2)
    assert [line["loss"] for line in logged(tmp_path / "small")] == [line["loss"] for line in logged(whole)][:2]


@pytest.mark.slow
def test_resumed_is_uninterrupted_bit_for_bit(whole, tmp_path):
    for steps in (1, 3, 5):
        run(tmp_path / "parts", replace(TINY, steps=steps))
    assert_same(whole, tmp_path / "parts", 5)
    assert [line["loss"] for line in logged(tmp_path / "parts")] == [line["loss"] for line in logged(whole)]
    with pytest.raises(UserError, match=r"data\.batch_ramp"):
        run(tmp_path / "parts", replace(TINY, data=replace(TINY.data, batch_ramp=None)))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"ends with 24 rows, but batch_size is 32 .*Nearest: --batch-size 24"):
        check(replace(TINY, data=replace(TINY.data, batch_size=32)), 8)
    odd = replace(TINY.data, batch_ramp="0:12,2:24")
    with pytest.raises(
        UserError, match=r"a batch of 12 rows is not divisible by mesh data=8 x fsdp=1. Nearest: 8 or 16"
    ):
        check(replace(TINY, data=odd), 8)
    with pytest.raises(
        UserError, match=r"a batch of 8 rows is not divisible by 2 microbatches on 8 devices. Nearest: 16"
    ):
        check(replace(TINY, microbatches=2), 8)
