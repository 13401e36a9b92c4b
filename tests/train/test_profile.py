"""A trace of a real, tiny training: written, read back, told by the report; ranges that cannot be are refused."""

from __future__ import annotations

from dataclasses import replace

import jax
import pytest

from t2t import models
from t2t.api import profiles
from t2t.api.report import write_report
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.errors import UserError
from t2t.launch.main import run
from t2t.optim import AdamW, Constant
from t2t.train import ledger
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, check
from t2t.train.loop import train
from t2t.train.profile import steps_of
from t2t.train.run import RunRecord, open_run
from tests.train.test_loop import Silent

TINY = Experiment(
    model=models.gpt.gpt(num_layers=2, d_model=64, num_heads=2, vocab_size=384, max_length=64, dropout=0.0),
    data=Data(task="reverse_words", inputs_length=32, targets_length=32, batch_size=16, shards=1, shuffle_buffer=0),
    optimizer=AdamW(schedule=Constant(peak=1e-3)),
    steps=3,
    checkpoint=CheckpointConfig(every=3),
    evaluation=Evaluation(split=None),
    profile="2:3",
)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    import t2t.tasks  # noqa: F401
    from t2t.data.pipeline import task_vocabulary

    directory = tmp_path_factory.mktemp("runs") / "traced"
    observer = Silent()
    record = RunRecord(recipe="tiny", experiment=TINY, vocabulary=task_vocabulary(TINY.data))
    train(directory, open_run(directory, record), observer)
    return directory, observer


@pytest.mark.slow
def test_a_trace_is_written_where_tensorboard_looks_for_it(traced):
    directory, observer = traced
    (file,) = directory.glob("profile/steps_2_3/plugins/profile/*/*.xplane.pb")
    assert profiles.newest(directory) == file
    assert any("profile written to" in message for message in observer.messages)
    assert ledger.read(directory).seconds["profile"] > 0


def test_matmuls_are_counted_and_come_from_the_models_parts(traced):
    found = profiles.read(traced[0])
    assert found.steps == (2, 3)
    assert sum(row.share for row in found.rows) + found.idle == pytest.approx(1.0, abs=1e-6)
    assert all(row.share >= 0 for row in found.rows)
    computing = [row for row in found.rows if row.kind != "collective"]  # of eight devices on few cores: mostly waiting
    assert [row.share for row in found.rows] == sorted((row.share for row in found.rows), reverse=True)
    assert sum(row.share for row in computing if row.kind == "matmul") > 0
    places = {row.place.removesuffix(", backward") for row in found.rows if row.kind == "matmul"}
    assert {"decoder/mlp", "decoder/attention", "head"} <= places
    assert "optimizer" in {row.place for row in found.rows}
    runs = {row.place: row.count for row in found.rows if row.kind == "matmul"}
    # Up and down of two layers on each device; backward each has two products.
    assert runs["decoder/mlp"] == 2 * 2 * jax.device_count()
    assert runs["decoder/mlp, backward"] == 2 * runs["decoder/mlp"]


def test_the_report_and_the_command_tell_the_table(traced, capsys):
    page = write_report(traced[0]).read_text()
    assert "Time of the devices" in page
    first = profiles.read(traced[0]).rows[0]
    assert first.largest in page
    assert f"{first.share:.1%}" in page
    assert run(["profile", str(traced[0]), "--top", "50"]) == 0
    shown = capsys.readouterr().out
    assert "steps 2 to 3" in shown
    assert "decoder/attention" in shown
    assert run(["profile", str(traced[0]), "--top", "0"]) == 2


def test_a_run_goes_on_without_the_profile_or_behind_it(traced):
    directory, _ = traced
    from t2t.data.pipeline import task_vocabulary

    vocabulary = task_vocabulary(TINY.data)
    open_run(directory, RunRecord(recipe="tiny", experiment=replace(TINY, profile=None), vocabulary=vocabulary))
    observer = Silent()
    record = open_run(directory, RunRecord(recipe="tiny", experiment=TINY, vocabulary=vocabulary))
    train(directory, record, observer)
    assert any("none of these steps is traced" in message for message in observer.messages)
    assert len(list(directory.glob("profile/*"))) == 1


def test_a_damaged_trace_is_a_note_on_the_page(traced, tmp_path):
    place = tmp_path / "profile" / "steps_1_2" / "plugins" / "profile" / "now"
    place.mkdir(parents=True)
    (place / "host.xplane.pb").write_bytes(b"\xff\xff no trace")
    page = write_report(tmp_path).read_text()
    assert "the profile could not be read" in page


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("10", r"'10' \(--profile\) is not FIRST:LAST. Nearest: 10:14"),
        ("a:b", "is not FIRST:LAST. Nearest: 10:14"),
        ("5:", "is not FIRST:LAST. Nearest: 5:9"),
        ("0:3", "Nearest: 1:3"),
        ("7:3", "Nearest: 7:7"),
        ("90:2000", r"the run has 1,000 steps \(--steps\). Nearest: 90:189"),
        ("2000:2005", "Nearest: 1000:1000"),
        ("1:500", "has 500 steps, more than 100. Nearest: 1:100"),
    ],
)
def test_ranges_that_cannot_be_are_refused(profile, said):
    with pytest.raises(UserError, match=said):
        check(replace(TINY, steps=1000, profile=profile), jax.device_count())


def test_both_ends_are_traced():
    assert steps_of("10:15", 1000) == (10, 15)
    assert steps_of("1000:1000", 1000) == (1000, 1000)


def test_where_an_operation_comes_from():
    assert (
        profiles.place_of("jit(sharded)/transpose(jvp(decoder))/while/body/closed_call/mlp/dot_general")
        == "decoder/mlp, backward"
    )
    assert profiles.place_of("jit(sharded)/jvp(encoder)/while/body/checkpoint/attention/exp") == "encoder/attention"
    assert profiles.place_of("jit(sharded)/mul") == "(elsewhere)"
