"""A causal decoder goes on as a non-causal one, and back: its parameters are taken, its optimizer is new. Real, tiny trainings."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import jax
import numpy as np
import pytest

from t2t import models
from t2t.api.recipes import find
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.errors import UserError
from t2t.optim import AdamW, Linear, Trainable
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, StartFrom, StartFromDecoders, check
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


@pytest.mark.slow
def test_a_discriminator_is_taken_from_an_electra_alone(causal):
    with pytest.raises(UserError, match=r"a DecoderConfig, not an ELECTRA.* Nearest: from:"):
        find(f"discriminator:{causal}")()


def encoder_decoder(recipe: str, **changes) -> Experiment:
    """Return the adapted experiment on the tests' task."""
    begun = find(recipe)()
    data = replace(begun.data, task="reverse_words", inputs_length=32, targets_length=16)
    return replace(begun, data=data, evaluation=Evaluation(split=None), **changes)


@pytest.mark.slow
def test_cross_attention_is_warmed_up_alone_and_then_all_is_trained(causal, tmp_path):
    decoder = SavedRun.load(causal).params()["decoder"]["layers"]
    cross = Trainable(include=("decoder/**/cross_attention*",))
    run(tmp_path / "warm", encoder_decoder(f"encoder-decoder:{causal}", steps=2, trainable=cross))
    warm = SavedRun.load(tmp_path / "warm").params()
    jax.tree.map(np.testing.assert_array_equal, warm["encoder"]["layers"], decoder)
    own = warm["decoder"]["layers"]
    jax.tree.map(np.testing.assert_array_equal, own["attention"], decoder["attention"])
    assert np.abs(own["cross_attention"]["out"]["kernel"] - decoder["attention"]["out"]["kernel"]).max() > 0
    assert np.abs(own["cross_attention_norm"]["scale"] - decoder["attention_norm"]["scale"]).max() > 0
    begun = find(f"from:{tmp_path / 'warm'}")()
    assert type(begun.start_from) is StartFrom
    with pytest.raises(UserError, match=r"a EncoderDecoderConfig, not a DecoderConfig.* Nearest: from:"):
        find(f"encoder-decoder:{tmp_path / 'warm'}")()


@pytest.mark.slow
def test_an_encoder_decoder_starts_from_two_runs(causal, tmp_path):
    wide = replace(CAUSAL, model=replace(CAUSAL.model, decoder=replace(CAUSAL.model.decoder, d_model=24)), steps=1)
    run(tmp_path / "wide", wide)
    experiment = encoder_decoder(f"encoder-decoder:{tmp_path / 'wide'},{causal}", steps=1)
    assert experiment.start_from.runs == (str(tmp_path / "wide"), str(causal))
    still = replace(experiment, optimizer=AdamW(schedule=Linear(peak=1e-9, warmup=0, steps=1), weight_decay=0.0))
    run(tmp_path / "both", still)
    params = SavedRun.load(tmp_path / "both").params()
    for side, source in (("encoder", tmp_path / "wide"), ("decoder", causal)):
        theirs = SavedRun.load(source).params()
        ours = params["embeddings" if side == "decoder" else "encoder_embeddings"]
        np.testing.assert_allclose(ours["token"]["table"], theirs["embeddings"]["token"]["table"], atol=1e-6)
        kernel = theirs["decoder"]["layers"]["attention"]["query"]["kernel"]
        np.testing.assert_allclose(params[side]["layers"]["attention"]["query"]["kernel"], kernel, atol=1e-6)


def test_what_cannot_be_adapted_is_refused_in_one_line(causal, tmp_path):
    with pytest.raises(UserError, match=r"expected a run, or two .* Nearest: encoder-decoder:a,b\."):
        find("encoder-decoder:a,b,c")()
    with pytest.raises(UserError, match=r"Nearest: encoder-decoder:RUN"):
        find("encoder-decoder:")()
    adapted = find(f"encoder-decoder:{causal}")()
    with pytest.raises(UserError, match=r"frozen_storage reference .* Nearest: copy"):
        check(replace(adapted, trainable=Trainable(exclude=("encoder/**",), frozen_storage="reference")), 8)
    with pytest.raises(UserError, match=r"decoder_run is b .*Nearest: --start-from.run b"):
        StartFromDecoders(decoder_run="b")
    with pytest.raises(UserError, match=r"decoder_step is 3 .*Nearest: --start-from.step"):
        StartFromDecoders(run="a", decoder_step=3)


@pytest.mark.slow
def test_an_adapted_decoder_is_better_than_the_same_model_from_scratch(tmp_path):
    import t2t.tasks  # noqa: F401  (registers; loads TensorFlow)

    sizes = {"num_layers": 2, "d_model": 64, "num_heads": 4, "d_ff": 128, "vocab_size": 384, "max_length": 96}
    decoder = replace(
        CAUSAL,
        model=models.llama.llama(**sizes),
        data=Data(task="docs_causal_lm", inputs_length=1, targets_length=95, batch_size=16, shards=1),
        optimizer=AdamW(schedule=Linear(peak=3e-3, warmup=20, steps=300)),
        steps=300,
        checkpoint=CheckpointConfig(every=300),
    )
    run(tmp_path / "decoder", decoder)
    begun = find(f"encoder-decoder:{tmp_path / 'decoder'}")()
    begun = replace(begun, steps=60, optimizer=AdamW(schedule=Linear(peak=1e-3, warmup=10, steps=60)))
    run(tmp_path / "adapted", begun)
    run(tmp_path / "scratch", replace(begun, start_from=StartFrom()))
    adapted, scratch = (
        np.mean([line["loss"] for line in lines(tmp_path / name)[-10:]]) for name in ("adapted", "scratch")
    )
    assert adapted < scratch - 0.2
