"""Losses of pairs of answers, against a version in NumPy of single answers; packed, in parts, on a mesh, and with each kind of reference."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from t2t.adapters import Adapter
from t2t.data.kind_converters import EncoderConverter, converter
from t2t.data.preference_pairs import REJECTED, in_pairs
from t2t.errors import UserError
from t2t.objectives import Preference
from t2t.objectives.objective import Teacher
from t2t.sharding import MeshConfig, activate
from tests.adapters.test_lora import adapted
from tests.models.test_sharded import layout
from tests.models.tiny import VOCAB, config, params_of, quick_jit

KINDS = ("dpo", "conservative", "robust", "ipo", "simpo", "orpo")
SIZES = [(3, 4, 2), (2, 1, 5), (4, 3, 3), (1, 2, 4), (3, 3, 1)]
"""Numbers of tokens of the inputs and of the answers."""
RANDOM = np.random.default_rng(5)
PAIRS = [
    {name: RANDOM.integers(2, VOCAB, size) for name, size in zip(("inputs", "targets", REJECTED), sizes, strict=True)}
    for sizes in SIZES
]
PLACES = {"decoder": "gpt", "encoder_decoder": "t5"}


def rows_of(kind):
    return converter(kind, inputs_length=5, targets_length=6)


def packed(kind, rows=((0, 1), (2,), (3, 4))):
    """Return a batch of rows of pairs."""
    return in_pairs(rows_of(kind)).batch([[PAIRS[i] for i in row] for row in rows])


def terms(kind, **options):
    own = {"label_smoothing": 0.2} if kind in ("conservative", "robust") else {}
    return Preference(kind=kind, reference=None if kind in ("simpo", "orpo") else "some", beta=0.3, **own, **options)


@functools.cache
def models(kind):
    """Return a model, its parameters and other parameters of a reference."""
    model, params = params_of(config(PLACES[kind], num_heads=8))
    return (
        model,
        params,
        jax.tree.map(lambda leaf: leaf + 0.05 * RANDOM.normal(size=leaf.shape).astype(leaf.dtype), params),
    )


def of_single_answers(kind, model, params):
    """Return the log-probabilities of the targets of each answer, computed for one answer alone."""
    single, logits = rows_of(kind), quick_jit(model.logits)
    found = []
    for pair in PAIRS:
        for answer in (pair["targets"], pair[REJECTED]):
            batch = single.batch([[{"inputs": pair["inputs"], "targets": answer}]])
            scores = np.asarray(logits(params, batch), np.float64)[0]
            scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
            at = np.asarray(batch.weights)[0] > 0
            found.append(np.take_along_axis(scores[at], np.asarray(batch.targets)[0, at, None], axis=1)[:, 0])
    return list(zip(found[::2], found[1::2], strict=True))


def by_hand(objective, own, reference):
    """Return the loss of each pair by the formulas of the papers, in float64."""
    beta, smoothing = objective.beta, objective.label_smoothing

    def softplus(x):
        return math.log1p(math.exp(x))

    losses = []
    for (c, r), (rc, rr) in zip(own, reference, strict=True):
        h = (c.sum() - rc.sum()) - (r.sum() - rr.sum())
        odds = [np.exp(x.mean()) / (1 - np.exp(x.mean())) for x in (c, r)]
        losses.append(
            {
                "dpo": softplus(-beta * h),
                "conservative": (1 - smoothing) * softplus(-beta * h) + smoothing * softplus(beta * h),
                "robust": ((1 - smoothing) * softplus(-beta * h) - smoothing * softplus(beta * h))
                / (1 - 2 * smoothing),
                "ipo": ((c.mean() - rc.mean()) - (r.mean() - rr.mean()) - 1 / (2 * beta)) ** 2,
                "simpo": softplus(-(beta * (c.mean() - r.mean()) - objective.gamma)),
                "orpo": -c.mean() + beta * softplus(-math.log(odds[0] / odds[1])),
            }[objective.kind]
        )
    return losses


def sums(objective, model, other, batch, params):
    if objective.reference is None:
        return objective.loss(model, params, batch)
    return objective.taught_loss(Teacher(model, other), model, params, batch)


@pytest.mark.parametrize("kind", PLACES)
def test_losses_are_those_of_the_formulas_for_single_answers(kind):
    model, params, other = models(kind)
    own, reference = (of_single_answers(kind, model, one) for one in (params, other))
    objectives = [terms(name) for name in KINDS]
    batch = packed(kind)
    found = quick_jit(lambda params: [sums(one, model, other, batch, params) for one in objectives])(params)
    margins = [(c.sum() - rc.sum()) - (r.sum() - rr.sum()) for (c, r), (rc, rr) in zip(own, reference, strict=True)]
    for objective, total in zip(objectives, found, strict=True):
        np.testing.assert_allclose(total.objective, sum(by_hand(objective, own, reference)), rtol=2e-5)
        assert float(total.weight) == len(PAIRS) == float(objective.weight(batch))
        if objective.reference is not None:
            assert float(total.correct) == sum(margin > 0 for margin in margins)
            rewards = objective.beta * sum(c.sum() - rc.sum() for (c, _), (rc, _) in zip(own, reference, strict=True))
            np.testing.assert_allclose(total.extra["reward_chosen"][0], rewards, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(
                total.extra["reward_margin"][0], objective.beta * sum(margins), rtol=1e-4, atol=1e-4
            )


def gradient(objective, model, other, batch):
    return jax.grad(lambda params: sums(objective, model, other, batch, params).objective)


@pytest.mark.parametrize("kind", ["decoder", pytest.param("encoder_decoder", marks=pytest.mark.slow)])
def test_parts_blocks_and_a_mesh_change_nothing(kind):
    model, params, other = models(kind)
    objective = terms("dpo")
    batch = packed(kind, ((0, 1), (2,), (3, 4), ()))
    whole = quick_jit(gradient(objective, model, other, batch))(params)
    alone = packed(kind, [(i,) for i in range(5)])
    parts = [jax.tree.map(lambda x, at=at: x[at], batch) for at in (slice(0, 2), slice(2, 4))]
    in_parts = quick_jit(
        lambda params: jax.tree.map(
            lambda *some: sum(some), *(gradient(objective, model, other, part)(params) for part in parts)
        )
    )(params)
    in_blocks = quick_jit(gradient(replace(objective, block=13), model, other, batch))(params)
    for found in (in_parts, in_blocks, quick_jit(gradient(objective, model, other, alone))(params)):
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), found, whole)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    places = layout(model.specs, mesh)
    with activate(mesh):
        run = quick_jit(
            gradient(replace(objective, block=26), model, other, batch), in_shardings=(places,), out_shardings=places
        )
        found = run(jax.device_put(params, places))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-5), found, whole)


def test_the_first_dpo_loss_is_the_logarithm_of_two():
    model, params, _ = models("decoder")
    for name, first in (
        ("dpo", math.log(2)),
        ("conservative", math.log(2)),
        ("robust", math.log(2)),
        ("ipo", (1 / 0.6) ** 2),
    ):
        total = quick_jit(functools.partial(sums, terms(name), model, params, packed("decoder")))(params)
        np.testing.assert_allclose(total.objective / total.weight, first, rtol=1e-6)
        assert float(total.extra["reward_margin"][0]) == 0.0


def test_without_a_run_the_reference_is_the_model_without_its_adapter():
    model, params, plain = adapted(config("gpt"), Adapter(rank=2, targets=("**/attention/*",)))
    base = config("gpt").build()
    batch, alone = packed("decoder"), replace(terms("dpo"), reference=None)
    found = quick_jit(functools.partial(alone.loss, model))(params, batch)
    with_run = quick_jit(lambda params: terms("dpo").taught_loss(Teacher(base, plain), model, params, batch))(params)
    np.testing.assert_allclose(found.objective, with_run.objective, rtol=1e-6)
    assert abs(float(found.objective / found.weight) - math.log(2)) > 1e-3
    # The reference has no gradient.
    one = quick_jit(jax.grad(lambda params: alone.loss(model, params, batch).objective))(params)
    other = quick_jit(
        jax.grad(lambda params: terms("dpo").taught_loss(Teacher(base, plain), model, params, batch).objective)
    )(params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, other)


@pytest.mark.parametrize("kind", PLACES)
def test_a_row_holds_whole_pairs_and_the_prompts_are_those_of_single_answers(kind):
    pairs = in_pairs(rows_of(kind))
    batch = packed(kind)
    assert batch.decoder.segments.max() == 4
    assert set(pairs.features) == {"inputs", "targets", REJECTED}
    for at, pair in enumerate(PAIRS):
        assert all(size <= room for size, room in zip(pairs.sizes(pair), pairs.capacity, strict=True)), at
    longest = {"inputs": np.ones(5, int), "targets": np.ones(6, int), REJECTED: np.ones(6, int)}
    assert pairs.sizes(longest) == pairs.capacity
    assert not pairs.predicts({**longest, REJECTED: np.ones(0, int)})
    jax.tree.map(np.testing.assert_array_equal, pairs.prompts(PAIRS), rows_of(kind).prompts(PAIRS))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Preference(kind="dopo"), r"unknown objective.kind 'dopo'.*Nearest: dpo"),
        (lambda: Preference(label_smoothing=0.1), r"label_smoothing is 0.1 .*does not use it. Nearest: conservative"),
        (lambda: Preference(kind="robust", label_smoothing=0.5), r"half of the pairs.*Nearest: 0.1"),
        (lambda: Preference(kind="orpo", reference="run"), r"objective.reference is run .*has no reference. Nearest: None"),
        (lambda: Preference().check_adapter(Adapter()), r"objective.reference is None .*no adapter.*--adapter.rank 16"),
        (lambda: Preference().check_adapter(Adapter(kind="dora", rank=2)), r"adapter.kind is 'dora'.*Nearest: the run"),
        (lambda: Preference().check_adapter(Adapter(rank=2, trained=("answer/**",))), r"adapter.trained is not empty"),
        (lambda: Preference().check(config("bert")), r"objective Preference .*needs a model that can do generate"),
        (lambda: in_pairs(EncoderConverter(inputs_length=4, targets_length=4)), r"preferences need rows of inputs and answers"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
