"""A causal decoder goes on as a non-causal one, and back: its parameters are taken, its optimizer is new. Real, tiny trainings."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import jax
import pytest

from t2t import models
from t2t.api.recipes import find
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.errors import UserError
from t2t.optim import AdamW, Linear
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, check
from t2t.train.run import SavedRun
from tests.train.test_loop import lines, run

CAUSAL = Experiment(
    model=models.gpt.gpt(
        num_layers=2,
        d_model=16,
        num_heads=2,
        vocab_size=384,
        max_length=48,
        dropout=0.0,
        init_std=0.5,
        embedding_std=0.5,
    ),
    data=Data(task="reverse_words", inputs_length=32, targets_length=16, batch_size=8, shards=1, loss_on_inputs=1.0),
    optimizer=AdamW(schedule=Linear(peak=2e-2, warmup=5, steps=10)),
    steps=4,
    log_every=1,
    checkpoint=CheckpointConfig(every=4),
    evaluation=Evaluation(split=None),
)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    import t2t.tasks  # noqa: F401  (registers; loads TensorFlow)

    directory = tmp_path_factory.mktemp("runs") / "causal"
    run(directory, CAUSAL)
    return directory


def first_loss(run: SavedRun, experiment: Experiment) -> float:
    """Return the loss that a run's parameters have on the first batch of an experiment, under that one's mask."""
    from t2t.data.pipeline import batches

    with contextlib.closing(batches(experiment.resolved_data(), "decoder")) as data:
        batch = next(data)
    model = experiment.model.build()
    sums = jax.jit(lambda params: experiment.objective.loss(model, params, batch))(run.params())
    return float(sums.loss / sums.weight)


@pytest.mark.slow
def test_a_causal_decoder_goes_on_as_a_non_causal_one_and_back(causal, tmp_path):
    begun = find(f"from:{causal}")()
    with pytest.raises(UserError, match=r"loss_on_inputs 1.0 .* Nearest: 0.0, or --model.mask causal"):
        check(replace(begun, model=replace(begun.model, mask="prefix")), 8)
    prefix = replace(
        begun, model=replace(begun.model, mask="prefix"), data=replace(begun.data, loss_on_inputs=0.0), steps=1
    )
    check(prefix, 8)
    run(tmp_path / "prefix", prefix)
    (told,) = lines(tmp_path / "prefix")
    expected = first_loss(SavedRun.load(causal), prefix)
    assert told["loss"] == pytest.approx(expected, rel=1e-5)
    # The mask matters: with that of before the loss is another.
    as_it_was = replace(prefix, model=begun.model)
    assert abs(expected - first_loss(SavedRun.load(causal), as_it_was)) > 1e-4
    rates = [line["learning_rate"] for line in lines(causal)]
    assert told["learning_rate"] == rates[0] < rates[-1]
    back = find(f"from:{tmp_path / 'prefix'}")()
    back = replace(back, model=replace(back.model, mask="causal"), data=replace(back.data, loss_on_inputs=0.5), steps=1)
    run(tmp_path / "back", back)
    (told,) = lines(tmp_path / "back")
    assert told["loss"] == pytest.approx(first_loss(SavedRun.load(tmp_path / "prefix"), back), rel=1e-5)


def test_only_decoders_have_a_loss_on_inputs():
    encoder = replace(CAUSAL, model=models.bert.bert(num_layers=1, d_model=16, num_heads=2, max_length=48))
    with pytest.raises(UserError, match=r"loss_on_inputs 1.0 .*'encoder' does not predict its inputs.* Nearest: 0.0"):
        check(encoder, 8)


def test_a_discriminator_is_taken_from_an_electra_alone(causal):
    with pytest.raises(UserError, match=r"a DecoderConfig, not an ELECTRA.* Nearest: from:"):
        find(f"discriminator:{causal}")()
