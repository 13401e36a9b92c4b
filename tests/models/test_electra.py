"""ELECTRA: its loss against one written out in NumPy, where gradients go, meshes, microbatches, packing, and that both halves learn."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.checkpoint import initialise
from t2t.checkpoint.tree import flatten
from t2t.config import dumps, loads
from t2t.errors import UserError
from t2t.models import electra, preset
from t2t.models.electra import ReplacedTokenDetection
from t2t.models.electra.objective import replace_predicted
from t2t.models.families import exportable
from t2t.nn.noise import gumbel, sample
from t2t.objectives import CrossEntropy
from t2t.objectives.cross_entropy import target_losses
from t2t.sharding import MeshConfig, activate
from t2t.train.state import create_state
from t2t.train.step import make_step
from t2t.types import Batch
from tests.models.test_sharded import layout
from tests.models.tiny import VOCAB, params_of, quick_jit, row, rows

CONFIG = electra.electra(
    num_layers=2,
    d_model=16,
    num_heads=8,
    d_ff=32,
    divisor=2,
    embedding_size=8,
    max_length=24,
    vocab_size=VOCAB,
    init_std=0.2,
    dropout=0.0,
)
DETECTION = ReplacedTokenDetection(z_loss=0.01)
MASK = VOCAB - 1
KEY = jax.random.fold_in(jax.random.key(3), 1)
LENGTHS = [(5, 7), (6, 3), (4, 4), (9, 2), (8, 5), (3, 3), (7, 6), (2, 10)]


def masked(texts: list[list[np.ndarray]], chosen: list[list[np.ndarray]], length: int) -> Batch:
    """Return packed rows of texts, masked where chosen."""
    targets = rows([row(some, length) for some in texts])
    places = rows([row(some, length) for some in chosen]).ids
    hidden = dataclasses.replace(targets, ids=np.where(places > 0, MASK, targets.ids))
    return Batch(encoder=hidden, decoder=None, targets=targets.ids, weights=places.astype(np.float32))


@functools.cache
def examples() -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    random = np.random.default_rng(0)
    texts = [[random.integers(1, MASK, n) for n in pair] for pair in LENGTHS]
    chosen = [[(np.arange(len(text)) % 3 == 1).astype(np.int32) for text in pair] for pair in texts]
    return texts, chosen


@functools.cache
def batch() -> Batch:
    """Return eight rows of two examples, a third of their tokens masked; in every other row the generator draws what is right."""
    made = masked(*examples(), 16)
    model, params = params_of(CONFIG)
    ids = np.asarray(sample(KEY, quick_jit(model.logits)(params, made)))
    here = (made.weights > 0) & (np.arange(8) % 2 == 0)[:, None]
    return dataclasses.replace(made, targets=np.where(here, ids, made.targets))


@functools.cache
def alone():
    model, params = params_of(CONFIG)
    losses = functools.partial(DETECTION.loss, model, batch=batch(), dropout_key=jax.random.key(3))
    return (
        model,
        params,
        quick_jit(jax.value_and_grad(lambda p: (lambda s: (s.objective, s))(losses(p)), has_aux=True))(params),
    )


def drawn(model, params) -> np.ndarray:
    """Return the ids that the loss draws under the key of `alone`."""
    return np.asarray(sample(KEY, model.logits(params, batch())))


def test_the_loss_is_that_written_out():
    model, params, ((_, sums), _) = alone()
    own = batch()
    logits = np.asarray(quick_jit(model.logits)(params, own), np.float64)
    log_z = np.log(np.exp(logits).sum(-1))
    plain = (log_z - np.take_along_axis(logits, own.targets[..., None], -1)[..., 0]) * own.weights
    ids = drawn(model, params)
    corrupted = dataclasses.replace(own.encoder, ids=np.where(own.weights > 0, ids, own.encoder.ids))
    scores = np.asarray(quick_jit(model.detect)(params, dataclasses.replace(own, encoder=corrupted)), np.float64)
    replaced, real = corrupted.ids != own.targets, own.encoder.segments > 0
    probability = 1 / (1 + np.exp(-scores))
    binary = -np.where(replaced, np.log(probability), np.log(1 - probability))[real]
    assert replaced.sum() > 10
    assert (ids == own.targets)[own.weights > 0].any(), (
        "no draw that is the right token: it would have to count as real"
    )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    close(sums.loss, plain.sum())
    close(sums.z_loss, 0.01 * (log_z**2 * own.weights).sum())
    close(sums.objective, plain.sum() + sums.z_loss + 50 * 0.15 * binary.sum())
    assert sums.weight == own.weights.sum()
    wanted = {
        "discriminator_loss": (binary.sum(), real.sum()),
        "discriminator_accuracy": (((scores > 0) == replaced)[real].sum(), real.sum()),
        "replaced": (replaced.sum(), real.sum()),
        "replaced_found": ((scores > 0)[replaced].sum(), replaced.sum()),
    }
    assert sums.extra.keys() == wanted.keys()
    for name, pair in wanted.items():
        close(sums.extra[name], pair, err_msg=name)


def test_the_discriminator_teaches_the_generator_nothing_but_the_embeddings():
    model, params, (_, whole) = alone()
    gradient = flatten(whole)
    of_a_masked_lm = lambda p: target_losses(CrossEntropy(z_loss=0.01), model, p, batch()).objective  # noqa: E731
    of_generator = flatten(quick_jit(jax.grad(of_a_masked_lm))(params))
    for path, value in gradient.items():
        if path.startswith("generator/"):
            np.testing.assert_allclose(value, of_generator[path], atol=1e-3, rtol=1e-4, err_msg=path)
        elif path.startswith(("encoder/", "detector/")):
            # A bias of keys is added to all logits of a query alike.
            assert np.any(value) or path.endswith("key/bias"), path
    shared = "embeddings/token/table"
    assert np.abs(of_generator[shared]).max() > 0
    assert np.abs(gradient[shared] - of_generator[shared]).max() > 1e-3
    assert not any("table" in path for path in gradient if not path.startswith("embeddings/"))


@pytest.mark.slow
def test_on_a_mesh_it_is_what_it_is_on_one_device():
    model, params, ((_, sums), gradients) = alone()
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    places = layout(model.specs, mesh)

    def objective(params):
        sums = DETECTION.loss(model, params, batch(), jax.random.key(3))
        return sums.objective, sums

    with activate(mesh):
        made = quick_jit(jax.value_and_grad(objective, has_aux=True), in_shardings=(places,))
        (_, spread), divided = made(jax.device_put(params, places))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), sums, spread)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3), gradients, divided)


def unpacked(array) -> np.ndarray:
    """Return the two examples of each row, a row each."""
    pieces = [
        x[part] for x, (a, b) in zip(np.asarray(array), LENGTHS, strict=True) for part in (slice(a), slice(a, a + b))
    ]
    return np.stack([np.concatenate([x, np.zeros((16 - len(x), *x.shape[1:]), x.dtype)]) for x in pieces])


def test_packed_equals_unpacked_where_both_are_given_the_same_draws():
    model, params, _ = alone()
    ids = drawn(model, params)
    corrupted, replaced = replace_predicted(batch(), jnp.asarray(ids))
    texts, chosen = examples()
    apart = masked([[text] for pair in texts for text in pair], [[some] for pair in chosen for some in pair], 16)
    apart = dataclasses.replace(apart, targets=unpacked(batch().targets))
    corrupted_apart, replaced_apart = replace_predicted(apart, jnp.asarray(unpacked(ids)))
    np.testing.assert_array_equal(replaced_apart, unpacked(replaced))
    logits, scores = quick_jit(model.logits), quick_jit(model.detect)
    real = apart.encoder.segments > 0
    for function, together, alone_ in ((scores, corrupted, corrupted_apart), (logits, batch(), apart)):
        expected, found = unpacked(function(params, together)), np.asarray(function(params, alone_))
        np.testing.assert_allclose(found[real], expected[real], atol=2e-5)


@pytest.mark.slow
def test_both_halves_learn():
    model = CONFIG.build()
    transform = optax.adam(1e-2)
    step = quick_jit(
        make_step(model, transform, ReplacedTokenDetection(), learning_rate=lambda step: jnp.float32(1e-2))
    )
    state, told = create_state(model, transform, 0), []
    for _ in range(60):
        state, metrics = step(state, batch())
        told.append({name: float(value) for name, value in metrics.items()})
    first, last = told[0], told[-1]
    assert first["loss"] == pytest.approx(math.log(VOCAB), abs=0.5)
    assert last["loss"] < 0.7 * first["loss"]
    assert last["discriminator_loss"] < 0.8 * first["discriminator_loss"]
    assert 0 < last["replaced"] < first["replaced"] < 0.35
    assert last["discriminator_accuracy"] > 1 - last["replaced"]


def test_sums_of_parts_are_those_of_the_whole_and_without_a_key_the_same_each_time():
    model, params, _ = alone()
    losses = quick_jit(functools.partial(ReplacedTokenDetection().loss, model))
    halves = [jax.tree.map(lambda x, rows=rows: x[rows], batch()) for rows in (slice(4), slice(4, 8))]
    one, other = (losses(params, half) for half in halves)
    again = losses(params, halves[0])
    jax.tree.map(np.testing.assert_array_equal, one, again)
    whole, (_, keyed), together = losses(params, batch()), alone()[2][0], one + other
    for sums in (whole, keyed):
        np.testing.assert_allclose(
            [together.loss, together.correct, together.weight], [sums.loss, sums.correct, sums.weight], rtol=1e-5
        )
        assert together.extra["discriminator_loss"][1] == sums.extra["discriminator_loss"][1]
    assert float(together.extra["replaced"][0]) == float(one.extra["replaced"][0] + other.extra["replaced"][0])


def test_draws_are_those_of_the_softmax():
    logits = jnp.log(jnp.asarray([0.5, 0.3, 0.15, 0.05]))
    ids = np.asarray(sample(jax.random.key(0), jnp.broadcast_to(logits, (40_000, 4))))
    shares = np.bincount(ids, minlength=4) / len(ids)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.15, 0.05], atol=5 * (0.25 / len(ids)) ** 0.5)
    noise = np.asarray(gumbel(jax.random.key(1), (300, 1000)))
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.01)
    assert noise.std() == pytest.approx(math.pi / 6**0.5, abs=0.01)


def test_the_discriminator_alone_is_an_encoder():
    model, params, _ = alone()
    config = CONFIG.discriminator()
    encoder, own = params_of(config)
    begun = initialise(own, params, include=("embeddings/**", "encoder/**"))
    assert all(path.startswith(("lm_head/", "transform/")) for path in begun.fresh)
    assert all(path.startswith(("generator/", "detector/")) for path in begun.unused)
    network = model._definition.bind(params)
    hidden = encoder.hidden(begun.params, batch())
    np.testing.assert_allclose(network.detector(hidden), model.detect(params, batch()), atol=1e-5)


def test_sizes_of_the_generator_are_the_papers():
    for name, expected in {"small": (64, 256, 1), "base": (256, 1024, 4), "large": (256, 1024, 4)}.items():
        config = preset(f"electra:{name}")
        assert (config.generator.d_model, config.generator.d_ff, config.generator.num_heads) == expected
        assert config.generator.num_layers == config.encoder.num_layers
        assert loads(dumps(config)) == config


@pytest.mark.parametrize("width", [8, None], ids=["narrow embeddings", "wide embeddings"])
def test_its_halves_are_encoders_that_transformers_has(width):
    config = dataclasses.replace(CONFIG, embedding_size=width)
    model, params = params_of(config)
    own, scores, classes = masked(*examples(), 16), {}, {}
    for name, part in config.parts().items():
        scores[name] = quick_jit(part.config.build().logits)(part.params(params), own)
        classes[name] = exportable(part.config)[1]["architectures"]
    np.testing.assert_allclose(scores["generator"], quick_jit(model.logits)(params, own), atol=1e-5)
    replaced = scores["discriminator"][..., 1] - scores["discriminator"][..., 0]
    np.testing.assert_allclose(replaced, quick_jit(model.detect)(params, own), atol=1e-5)
    assert classes["discriminator"] == ["ElectraForPreTraining"]
    # A generator as wide as the embeddings is a BERT.
    assert classes["generator"] == ["ElectraForMaskedLM" if width is None else "BertForMaskedLM"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("electra:base", divisor=5), r"divisor 5 .*d_model = 768\. Nearest: 4"),
        (lambda: preset("electra:base", tied=False), r"model.tied is False.*Nearest: True"),
        (lambda: ReplacedTokenDetection(masked_share=0.0), r"masked_share 0.0 .*Nearest: 0.15"),
        (lambda: ReplacedTokenDetection(discriminator_weight=-1.0), r"discriminator_weight -1.0 .*Nearest: 0"),
        (lambda: dataclasses.replace(CONFIG, generator=dataclasses.replace(CONFIG.generator, max_length=8)), r"generator.max_length is 8.*share embeddings"),
        (lambda: exportable(CONFIG), r"transformers has no model like this one"),
        (lambda: CONFIG.build().start(params_of(CONFIG)[1], batch(), 4), r"does not generate"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
