"""Steps that go bad in real, tiny trainings: skipped, rewound or ended, and told by the tensor's name."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t import tasks  # noqa: F401  registers them
from t2t.checkpoint import CheckpointConfig, Checkpoints
from t2t.data import Data
from t2t.data.prefetch import DeviceBatches
from t2t.errors import UserError
from t2t.optim import AdamW, Constant
from t2t.optim.norms import layered, squares
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment
from t2t.train.guard import Diverged, Guard, Judge, examine, healthy, tensors
from tests.models.tiny import config, params_of
from tests.train.test_loop import Silent, run

MODEL = config("t5", vocab_size=384)
TINY = Experiment(
    model=MODEL,
    data=Data(task="reverse_words", inputs_length=32, targets_length=24, batch_size=8, shards=2),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=12,
    log_every=2,
    mesh=MeshConfig(data=8),
    checkpoint=CheckpointConfig(every=4, keep_last=9),
    evaluation=Evaluation(split=None),
)


@pytest.fixture
def poisoned(monkeypatch):
    """Let the batches of some numbers, counted from 1 over the whole run, have targets of no finite weight, or of a loss that leaps."""

    def poison(numbers, factor=float("nan")):
        following, count = DeviceBatches.__next__, iter(range(1, 1000))

        def bad(self):
            batch = following(self)
            if next(count) not in numbers:
                return batch
            if np.isnan(factor):
                return replace(batch, weights=batch.weights * jnp.inf)
            return replace(batch, targets=jax.device_put(jnp.full_like(batch.targets, 383), batch.targets.sharding))

        monkeypatch.setattr(DeviceBatches, "__next__", bad)

    return poison


def lines(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_bad_step_is_skipped_counted_and_told(poisoned, tmp_path):
    poisoned({5, 6})
    observer = Silent()
    assert run(tmp_path / "run", TINY, observer).step == 12
    told = [message for message in observer.messages if "skipped" in message]
    assert told == [f"step {step}: the loss is not finite; its update was skipped" for step in (5, 6)]
    by_step = {line["step"]: line for line in lines(tmp_path / "run")}
    assert [by_step[step]["skipped"] for step in (4, 6, 12)] == [0, 2, 2]
    assert all(np.isfinite(by_step[step]["loss"]) for step in (4, 8, 10, 12))
    assert by_step[6]["loss"] == "nan"  # both of its steps
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4, 8, 12]
        params = checkpoints.restore_params(12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@pytest.mark.slow
def test_a_run_rewinds_to_before_the_bad_step_and_leaves_its_data_out(poisoned, tmp_path):
    poisoned({6})
    observer = Silent()
    assert run(tmp_path / "run", replace(TINY, guard=Guard(nonfinite="rewind")), observer).step == 12
    assert "rewinding to step 4 because of step 6; the data read since then is skipped" in observer.messages
    assert [line["step"] for line in lines(tmp_path / "run")] == [2, 4, 6, 8, 10, 12]
    assert [line["rewinds"] for line in lines(tmp_path / "run")] == [0, 0, 1, 1, 1, 1]


@pytest.mark.slow
def test_a_run_that_is_to_stop_ends_with_its_last_checkpoint_from_before(poisoned, tmp_path):
    poisoned({7})
    with pytest.raises(Diverged, match=r"step 7: the loss is not finite \(--guard.nonfinite stop\)"):
        run(tmp_path / "run", replace(TINY, guard=Guard(nonfinite="stop")))
    with Checkpoints(tmp_path / "run" / "checkpoints") as checkpoints:
        assert checkpoints.steps() == [4]


def test_too_many_bad_steps_in_a_row_end_the_run(poisoned, tmp_path):
    poisoned(set(range(3, 100)))
    with pytest.raises(Diverged, match=r"4 bad steps in a row \(--guard.limit 3\)"):
        run(tmp_path / "run", replace(TINY, guard=Guard(limit=3)))


@pytest.mark.slow
def test_a_spike_is_told_from_ordinary_losses(poisoned, tmp_path):
    poisoned({9}, factor=1.0)
    guard = Guard(spike="skip", spike_factor=1.3, window=4)
    observer = Silent()
    run(tmp_path / "run", replace(TINY, guard=guard, optimizer=AdamW(schedule=Constant(peak=3e-2))), observer)
    told = [message for message in observer.messages if "skipped" in message]
    assert told
    assert told[0].startswith("step 9: loss ")
    assert "its running mean" in told[0]


def test_what_is_found_is_the_first_tensor_and_its_layer():
    model, params = params_of(MODEL)
    names, stacked = tensors(model.specs), layered(model.specs)
    assert len(names) == squares(params, stacked).shape[0]
    wanted = "decoder/layers/attention/out/kernel, layer 1"
    broken = jax.tree.map(lambda x: x, params)
    kernel = broken["decoder"]["layers"]["attention"]["out"]["kernel"]
    broken["decoder"]["layers"]["attention"]["out"]["kernel"] = kernel.at[1, 0, 0].set(jnp.inf)
    judge = Judge(Guard(), model.specs)
    assert judge.bad_parameter(params) is None
    assert judge.bad_parameter(broken) == wanted
    with pytest.raises(Diverged, match=f"step 3: parameter {wanted} is not finite; the step was not saved"):
        judge.check_parameters(3, broken)
    for grads, updates, which in ((broken, params, "gradient"), (params, broken, "update")):
        finding, health = examine(
            Guard(), healthy(), jnp.float32(1.0), squares(grads, stacked), squares(updates, stacked)
        )
        assert bool(finding.bad)
        found = judge.bad_steps([3], [{"bad": finding.kind, "bad_tensor": finding.at, "loss": 1.0, "loss_mean": 0.0}])
        assert found[0].what == f"the {which} of {wanted} is not finite"
        assert (int(health.skipped), int(health.row), int(health.good)) == (1, 1, 0)


def test_the_running_mean_leaves_bad_steps_out():
    health, guard, means = healthy(), Guard(spike="skip", spike_factor=2.0, window=3), []
    for loss in (4.0, 2.0, 3.0, 100.0, 3.0, float("nan"), 3.0):
        finding, health = examine(guard, health, jnp.float32(loss), jnp.ones(2), jnp.ones(2))
        means.append((float(health.mean), int(finding.kind)))
    assert means == [(4, 0), (3, 0), (3, 0), (3, 2), (3, 0), (3, 1), (3, 0)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, r"limit 0 .* Nearest: 1\."),
        ({"spike_factor": 1.0}, r"spike_factor 1\.0 .* Nearest: 1\.01"),
        ({"step_seconds": -1}, "Nearest: 0"),
    ],
)
def test_impossible_guards_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Guard(**options)
