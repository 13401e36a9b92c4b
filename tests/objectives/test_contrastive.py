"""The contrastive loss equals that of texts encoded one at a time, on a mesh too; and an encoder that is trained with it finds its texts."""

import functools
import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t import tasks
from t2t.api.encoders import encoder_alone, encoder_parameters
from t2t.data import Data
from t2t.data.texts import TextsConverter
from t2t.decode import embed_texts
from t2t.errors import UserError
from t2t.models.t5 import encoder_of
from t2t.objectives import Contrastive
from t2t.optim import AdamW
from t2t.sharding import MeshConfig, activate
from t2t.tasks import metrics, sources
from t2t.train.evaluation import Evaluation, Evaluator
from t2t.train.experiment import Experiment, check
from t2t.vocabularies import Bytes
from tests.models.test_sharded import layout
from tests.models.tiny import VOCAB, config, params_of, quick_jit, row, rows

OBJECTIVE = Contrastive(temperature=0.2, negatives=1)


@functools.cache
def groups():
    """Return eight examples of two or three texts. The last has no texts."""
    random = np.random.default_rng(0)
    counts = [3, 2, 3, 3, 2, 3, 2, 0]
    return [[random.integers(1, VOCAB, random.integers(2, 5)) for _ in range(count)] for count in counts]


@functools.cache
def batch():
    converter = TextsConverter(inputs_length=14, targets_length=1, extras=Contrastive.extras)
    made = []
    for texts in groups():
        if not texts:
            made.append([])
            continue
        ids = np.concatenate(texts)
        numbers = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        weights = (np.arange(len(ids)) == 0).astype(np.float32)
        made.append([{"inputs": ids, "targets": numbers, "weights": weights, "texts": np.array([len(texts)])}])
    return converter.batch(made)


LAYER = {"vector_dense": 20, "vector_dense_activation": "identity", "vector_dense_bias": False}


def alone(model, params):
    """Return the mean loss with each text in a row of its own, each query compared in a loop."""
    examples = [texts for texts in groups() if texts]
    apart = [replace(row([ids], 4), types=None) for texts in examples for ids in texts]
    tokens = rows(apart)
    hidden = model.hidden(params, replace(batch(), encoder=tokens, targets=tokens.ids, weights=tokens.ids, extra={}))
    vectors = []
    for i, ids in enumerate(ids for texts in examples for ids in texts):
        own = hidden[i, : len(ids)]
        pooled = {"mean": own.mean(0), "first": own[0], "max": own.max(0)}[model.config.vector_pooling]
        if "vector_layer" in params:
            layer = params["vector_layer"]["dense"]
            pooled = pooled @ layer["kernel"] + layer.get("bias", 0.0)
            pooled = jnp.tanh(pooled) if model.config.vector_dense_activation == "tanh" else pooled
        vectors.append(pooled / jnp.sqrt(jnp.sum(pooled**2)))
    starts = np.cumsum([0, *map(len, examples)])[:-1]
    texts = jnp.stack([vector for i, vector in enumerate(vectors) if i not in starts])
    losses = []
    for number, start in enumerate(starts):
        scores = texts @ vectors[start] / OBJECTIVE.temperature
        losses.append(
            jax.nn.logsumexp(scores) - scores[start - number]
        )  # the queries before it are not among the texts
    return sum(losses) / len(losses)


def mean_loss(model, params):
    return OBJECTIVE.loss(model, params, batch()).objective / OBJECTIVE.weight(batch())


@pytest.mark.parametrize(
    "settings",
    [
        config("bert"),
        config("bert", vector_pooling="first", vector_dense=12),
        replace(encoder_of(config("t5")), vector_pooling="max", **LAYER),
    ],
    ids=["mean", "first, dense as in LaBSE", "max of T5, dense as in Sentence-T5"],
)
def test_loss_and_gradients_are_those_of_texts_encoded_alone(settings):
    model, params = params_of(settings)
    expected = quick_jit(jax.value_and_grad(functools.partial(alone, model)))(params)
    found = quick_jit(jax.value_and_grad(functools.partial(mean_loss, model)))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), expected, found)


def test_the_negatives_are_those_of_the_whole_batch_on_a_mesh():
    model, params = params_of(config("bert", num_heads=8, vector_dense=12))
    expected = quick_jit(jax.value_and_grad(functools.partial(mean_loss, model)))(params)
    mesh = MeshConfig(data=2, fsdp=2, context=2).build()
    places = layout(model.specs, mesh)
    with activate(mesh):
        found = quick_jit(
            jax.value_and_grad(functools.partial(mean_loss, model)),
            in_shardings=(places,),
            out_shardings=(None, places),
        )(jax.device_put(params, places))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), expected, found)


def test_microbatches_and_models_without_vectors_are_refused():
    data = Data(task="none", inputs_length=16, batch_size=8)
    experiment = Experiment(model=config("bert"), data=data, optimizer=AdamW(), objective=OBJECTIVE)
    check(experiment, 1)
    with pytest.raises(UserError, match=r"microbatches 2 .*Contrastive compares all rows.*Nearest: 1"):
        check(replace(experiment, microbatches=2), 1)
    with pytest.raises(UserError, match=r"Contrastive .*embed.*Nearest: CrossEntropy"):
        check(replace(experiment, model=config("t5")), 1)


def test_evaluation_compares_the_vectors_that_inference_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("T2T_CACHE", str(tmp_path / "cache"))
    words = ["tree", "house", "river", "cloud"]
    pairs = [{"q": f"{word} {i}", "p": f"{i} {word}", "n": word} for i in range(5) for word in words]
    scores = [{"a": "tree", "b": word, "s": i / 2} for i, word in enumerate(words)]
    for name, made in (("pairs", pairs), ("scores", scores)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    source = sources.jsonl({"validation": tmp_path / "pairs.jsonl"})
    tasks.add_retrieval("own_pairs", source=source, query="q", positive="p", negatives="n", replace=True)
    source = sources.jsonl({"validation": tmp_path / "scores.jsonl"})
    tasks.add_similarity("own_scores", source=source, first="a", second="b", score="s", replace=True)
    model, params = params_of(config("bert", vocab_size=384, vector_pooling="max", vector_dense=12))
    data = Data(task="own_pairs", inputs_length=24, batch_size=8, shards=1, seed=0)
    evaluation = Evaluation(tasks=("own_pairs", "own_scores"), batch_size=8)
    found, similar = Evaluator(model, evaluation, data, OBJECTIVE).evaluate(params)

    def vectors(texts):
        return np.array(embed_texts(model, params, Bytes(), texts, normalise=True))

    queries = vectors([pair["q"] for pair in pairs])
    texts = vectors([pair[side] for pair in pairs for side in ("p", "n")])
    cosines = queries @ texts.T
    ranks = 1 + (cosines > cosines[np.arange(20), 2 * np.arange(20)][:, None] + 1e-6).sum(axis=1)
    assert [row["rank"] for row in found.predictions] == ranks.tolist()
    assert found.metrics.keys() == {"loss", "objective", "retrieval_accuracy", "mrr"}
    assert found.metrics["mrr"] == pytest.approx(np.mean(1 / ranks))
    assert found.metrics["retrieval_accuracy"] == pytest.approx(np.mean(ranks == 1))
    assert found.metrics["loss"] > 0
    assert similar.metrics.keys() == {"spearman", "pearson"}
    first, second = (vectors([row[side] for row in scores]) for side in ("a", "b"))
    near = np.sum(first * second, axis=1)
    assert [row["prediction"] for row in similar.predictions] == [f"{value:.4f}" for value in near]
    assert similar.metrics["spearman"] == pytest.approx(metrics.spearman([0, 0.5, 1, 1.5], near)["spearman"])


def test_the_encoder_of_a_model_is_taken_alone():
    for name in ("bert", "t5"):
        whole = config(name)
        alone = encoder_alone(whole, where="contrastive:RUN")
        specs = whole.build().specs
        assert alone.build().specs == {part: specs[part] for part in ("embeddings", "encoder")}
    layered = encoder_alone(config("bert", vector_dense=12), where="contrastive:RUN")
    assert layered.build().specs.keys() == {"embeddings", "encoder", "vector_layer"}
    assert encoder_parameters(layered) == ("embeddings/**", "encoder/**", "vector_layer/**")
    with pytest.raises(UserError, match=r"contrastive:RUN: the run's model has model.shared; its encoder cannot"):
        encoder_alone(config("t5-shared"), where="contrastive:RUN")
    with pytest.raises(UserError, match="is of kind decoder and has no encoder"):
        encoder_alone(config("gpt"), where="contrastive:RUN")
