"""Objectives: what older versions wrote, which models they train, their options, and one of a user's own in a file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from t2t import config
from t2t.api.recipes import recipes
from t2t.errors import UserError
from t2t.launch import parse
from t2t.launch.main import run
from t2t.models.electra import ReplacedTokenDetection
from t2t.objectives import CrossEntropy
from t2t.train.experiment import check
from t2t.train.run import read_record

OLD_LOSS = {"class": "t2t.losses.Loss", "z_loss": 0.25, "label_smoothing": 0.125, "block": 7}


def experiment(name: str):
    return recipes()[f"{name}:quickstart"]()


def written_before(name: str, **of_the_model: float):
    """Return a recipe's JSON as versions without objectives wrote it."""
    data = config.to_json(experiment(name))
    del data["objective"]
    return {**data, "loss": OLD_LOSS, "model": {**data["model"], **of_the_model}}


def test_a_loss_of_an_older_version_is_cross_entropy():
    wanted = replace(experiment("t5"), objective=CrossEntropy(z_loss=0.25, label_smoothing=0.125, block=7))
    assert config.from_json(written_before("t5")) == wanted


def test_an_older_electra_keeps_the_weights_that_stood_in_its_model():
    found = config.from_json(written_before("electra", discriminator_weight=10.0, masked_share=0.5))
    objective = ReplacedTokenDetection(discriminator_weight=10.0, masked_share=0.5, z_loss=0.25, label_smoothing=0.125)
    assert found == replace(experiment("electra"), objective=objective)


def test_the_model_of_an_older_electra_is_read_alone():
    model = experiment("electra").model
    assert config.from_json({**config.to_json(model), "discriminator_weight": 10.0, "masked_share": 0.5}) == model


@pytest.mark.parametrize("loss", [3, "t2t.losses.Loss", None, [], {"z_loss": 0.1}, {"class": "t2t.losses.Los"}])
@pytest.mark.parametrize("name", ["t5", "electra"])
def test_a_damaged_loss_of_an_older_version_is_refused_in_one_line(name, loss):
    data = {**written_before(name), "loss": loss}
    if name == "electra" and not (isinstance(loss, dict) and "z_loss" in loss):
        data["model"]["discriminator_weight"] = "much"
    if name == "electra" and isinstance(loss, dict):
        data["loss"] = {**loss, "z_loss": -1}
    with pytest.raises(UserError) as refused:
        config.from_json(data)
    assert "\n" not in str(refused.value)


def test_an_objective_that_cannot_train_the_model_is_refused_and_one_that_can_is_named():
    electra, t5 = experiment("electra"), experiment("t5")
    with pytest.raises(UserError, match=r"CrossEntropy .*predict.*ElectraConfig can do .*Nearest: ReplacedTokenDetect"):
        check(replace(electra, objective=CrossEntropy()), 1)
    with pytest.raises(
        UserError, match=r"ReplacedTokenDetection .*detect.*EncoderDecoderConfig.*Nearest: CrossEntropy"
    ):
        check(replace(t5, objective=ReplacedTokenDetection()), 1)
    check(electra, 1)
    check(t5, 1)


@pytest.mark.parametrize(
    ("name", "word", "nearest"),
    [
        ("t5", "--loss.z-loss", "--objective.z-loss"),
        ("t5", "--loss.block", "--objective.block"),
        ("electra", "--model.discriminator-weight", "--objective.discriminator-weight"),
        ("electra", "--model.masked-share", "--objective.masked-share"),
    ],
)
def test_an_option_of_an_older_version_is_told_what_it_is_now(name, word, nearest):
    with pytest.raises(UserError, match=f"unknown option {word}. Nearest: {nearest}"):
        parse.override(experiment(name), [word, "0.5"], prog="t2t train", description="")
    changed = parse.override(experiment(name), [nearest, "1"], prog="t2t train", description="")
    assert changed.objective != experiment(name).objective


OWN = '''
"""An objective of one's own: half cross-entropy, half mean probability of the targets."""
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from t2t.api.recipes import quickstart_t5
from t2t.losses import LossSums
from t2t.objectives import Objective


@dataclass(frozen=True, kw_only=True)
class Halves(Objective):
    """Args:
        share: of the probabilities.
    """

    needs = frozenset({"predict"})
    share: float = 0.5

    def loss(self, model, params, batch, dropout_key=None):
        scores = jax.nn.log_softmax(model.logits(params, batch, dropout_key=dropout_key))
        picked = jnp.take_along_axis(scores, batch.targets[..., None], axis=-1)[..., 0]
        plain = -jnp.sum(picked * batch.weights)
        likely = jnp.sum(jnp.exp(picked) * batch.weights)
        weight = jnp.sum(batch.weights)
        return LossSums(
            objective=(1 - self.share) * plain - self.share * likely, loss=plain, weight=weight, extra={"likely": (likely, weight)}
        )


def recipe():
    return replace(quickstart_t5(), objective=Halves())
'''
TINY = (
    "--steps 2 --batch-size 8 --data.shards 2 --log-every 1 --evaluation.split None --data.inputs-length 16 --data.targets-length 16"
    " --optimizer.schedule.steps 2 --optimizer.schedule.warmup 0 --model.encoder.num-layers 1 --model.decoder.num-layers 1"
    " --model.encoder.d-model 16 --model.decoder.d-model 16 --model.encoder.num-heads 2 --model.decoder.num-heads 2 --model.encoder.d-ff 16 --model.decoder.d-ff 16"
)


def test_an_objective_of_ones_own_is_one_file(tmp_path):
    (tmp_path / "halves.py").write_text(OWN)
    words = [f"{tmp_path / 'halves.py'}:recipe", "--dir", str(tmp_path / "run"), *TINY.split()]
    assert run(["train", *words, "--objective.share", "0.25"]) == 0
    kept = read_record(tmp_path / "run").experiment.objective
    assert (type(kept).__name__, kept.share) == ("Halves", 0.25)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "likely" in line]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(0 < line["likely"] < 1 and line["loss"] > 0 for line in steps)
