"""Heads for several labels or numbers of a text: packed = unpacked, sharded = unsharded, losses by hand; and what a model keeps for other heads."""

import dataclasses

import jax
import numpy as np
import pytest

from t2t.checkpoint import initialise
from t2t.data.kind_converters import converter
from t2t.data.values import with_values
from t2t.errors import UserError
from t2t.losses import LossSums
from t2t.models.families import exportable
from t2t.nn.model import ParamSpec
from t2t.objectives import CrossEntropy
from t2t.optim.paths import flatten_specs
from t2t.sharding import MeshConfig, activate
from tests.models.test_sharded import layout
from tests.models.tiny import VOCAB, config, logits_of, params_of, quick_jit

RANDOM = np.random.default_rng(0)
LABELS = ("a", "b", "c")
EXAMPLES = [
    {
        "inputs": RANDOM.integers(1, VOCAB, size).astype(np.int32),
        "targets": np.zeros(size, np.int32),
        "weights": np.array([known, *[0] * (size - 1)], np.float32),
        "values": RANDOM.integers(0, 2, 3).astype(np.float32),
    }
    for size, known in ((5, 1), (7, 1), (3, 0), (4, 1))
]
ROWS = with_values(3)(converter("encoder", inputs_length=16, targets_length=0))
APART = ROWS.batch([[example] for example in EXAMPLES])
HEADS = {"labels": {"labels": LABELS, "pooler": True}, "numbers": {"labels": LABELS}}


def losses(head):
    settings = config("bert", head=head, **HEADS[head])
    model, params = params_of(settings)
    return settings, params, quick_jit(lambda params, batch: CrossEntropy().loss(model, params, batch))


@pytest.mark.parametrize("head", HEADS)
def test_losses_are_those_of_the_formula_packed_or_not(head):
    settings, params, loss = losses(head)
    logits = np.asarray(logits_of(settings)(APART))[:, 0].astype(np.float64)
    values = np.array([example["values"] for example in EXAMPLES])
    known = np.array([example["weights"][0] for example in EXAMPLES])
    if head == "labels":
        chance = 1 / (1 + np.exp(-logits))
        each = -(values * np.log(chance) + (1 - values) * np.log(1 - chance)).mean(axis=1)
    else:
        each = ((logits - values) ** 2).mean(axis=1)
    apart = loss(params, APART)
    np.testing.assert_allclose(apart.objective, (each * known).sum(), rtol=1e-5)
    assert (apart.loss, apart.weight) == (apart.objective, 3)
    right = ((logits > 0) == values).mean(axis=1) if head == "labels" else np.zeros(4)
    np.testing.assert_allclose(apart.correct, (right * known).sum(), rtol=1e-6)
    packed = ROWS.batch([EXAMPLES[:3], EXAMPLES[3:], [], []])
    assert packed.extra["values"].shape == (4, 4, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), loss(params, packed), apart)


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_sharded_equals_unsharded(head):
    settings, params, _ = losses(head)
    model = settings.build()
    value = jax.value_and_grad(lambda params: CrossEntropy().loss(model, params, APART).objective)
    expected = quick_jit(value)(params)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    with activate(mesh):
        found = quick_jit(value)(jax.device_put(params, layout(model.specs, mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), expected, found)


def test_huge_scores_stay_finite():
    from t2t.losses import binary_cross_entropy

    logits, targets = np.array([[1e30, -1e30]], np.float32), np.array([[1.0, 0.0]], np.float32)
    sums = jax.value_and_grad(lambda x: binary_cross_entropy(x, targets, np.ones(1)).objective)(logits)
    assert sums[0] == 0
    assert np.isfinite(sums[1]).all()
    assert isinstance(binary_cross_entropy(logits, targets, np.ones(1)), LossSums)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"head": "labels"}, "model.head 'labels' needs one or more different labels"),
        ({"head": "numbers", "labels": ("a", "a")}, "model.head 'numbers' needs different labels"),
        ({"head": "numbers", "reference_label": True}, "model.reference_label is True, but model.head is 'numbers'"),
        ({"kept_pair_classifier": True}, "model.kept_pair_classifier is True, but model.kept_pooler is False"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        config("bert", **fields)


@pytest.mark.parametrize("field", ["z_loss", "label_smoothing"])
def test_regularizers_of_a_softmax_are_refused(field):
    with pytest.raises(UserError, match=rf"{field} 0.1 .* model.head 'labels' does not have. Nearest: 0.0"):
        CrossEntropy(**{field: 0.1}).check(config("bert", head="labels", labels=LABELS))


def test_a_single_number_needs_no_name():
    one = config("bert", head="numbers")
    assert (one.num_labels, one.num_outputs(8)) == (1, 1)
    assert exportable(dataclasses.replace(one, pooler=True))[1]["id2label"] == {"0": "LABEL_0"}


def test_a_kept_pooler_is_neither_used_nor_trained():
    plain, kept = (config("bert", kept_pooler=keep, kept_pair_classifier=keep) for keep in (False, True))
    specs = flatten_specs(kept.build().specs)
    frozen = {path for path, spec in specs.items() if not spec.trainable}
    parts = ("kernel", "bias")
    assert frozen == {f"{name}/{part}" for name in ("answer/pooler", "pair_classifier") for part in parts}
    assert set(specs) - frozen == set(flatten_specs(plain.build().specs))
    params = params_of(kept)[1]
    used = {name: value for name, value in params.items() if name not in ("answer", "pair_classifier")}
    np.testing.assert_array_equal(
        quick_jit(kept.build().logits)(params, APART), quick_jit(plain.build().logits)(used, APART)
    )


def zeros(model):
    return jax.tree.map(
        lambda spec: np.zeros(spec.shape, np.float32), model.specs, is_leaf=lambda x: isinstance(x, ParamSpec)
    )


def test_fine_tuning_starts_from_the_kept_pooler_where_there_is_one():
    kept = config("bert", kept_pooler=True, kept_pair_classifier=True)
    source = params_of(kept)[1]
    frozen = [path for path, spec in flatten_specs(kept.build().specs).items() if not spec.trainable]
    exclude = ("lm_head", "transform")
    for head in (
        {"head": "label", "labels": LABELS, "pooler": True},
        {"head": "label", "labels": LABELS},
        {"head": "span"},
    ):
        started = initialise(zeros(dataclasses.replace(kept, **head).build()), source, exclude=exclude, optional=frozen)
        pooler = {f"answer/pooler/{part}" for part in ("bias", "kernel")}
        assert pooler <= set(started.taken if "pooler" in head else started.unused)
        assert {"answer/output/kernel", "answer/output/bias"} <= set(started.fresh)
        if "pooler" in head:
            np.testing.assert_array_equal(
                started.params["answer"]["pooler"]["kernel"], source["answer"]["pooler"]["kernel"]
            )
