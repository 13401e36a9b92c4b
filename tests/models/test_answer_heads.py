"""Heads for labels, tags and spans: what they score is the same packed, counted as published, and what cannot be is refused."""

import jax
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.models import count, preset
from t2t.models.answer_heads import HIDDEN, pointers
from t2t.models.families import exportable
from t2t.sharding import MeshConfig, activate
from tests.models.test_sharded import layout
from tests.models.tiny import VOCAB, batch, config, logits_of, params_of, quick_jit, row, rows

RANDOM = np.random.default_rng(0)
EXAMPLES = [RANDOM.integers(1, VOCAB, n) for n in (5, 7, 3)]
LABELS = ("a", "b", "c")
HEADS = {
    "label": {"head": "label", "labels": LABELS, "pooler": True},
    "tags": {"head": "tags", "labels": LABELS},
    "span": {"head": "span"},
    "mean label": {"head": "label", "labels": LABELS, "answer_transform": True, "pooling": "mean"},
    "one logit": {
        "head": "tags",
        "labels": LABELS,
        "pooler": True,
        "pooler_activation": "gelu",
        "reference_label": True,
    },
    "mean of scores": {
        "head": "label",
        "labels": LABELS,
        "pooler": True,
        "pooler_activation": "gelu",
        "pooling": "mean_scores",
    },
}


@pytest.mark.parametrize("head", HEADS)
def test_packed_equals_unpacked_with_types(head):
    settings = config("bert", **HEADS[head])
    own = batch("encoder", rows([row(EXAMPLES, 18), *(row([x], 18) for x in EXAMPLES)]), None)
    assert np.asarray(own.encoder.types).any()
    logits = np.asarray(logits_of(settings)(own))
    assert logits.dtype == np.float32
    assert logits.shape == (4, 18, 18 if head == "span" else 3)
    together, apart = logits[0], logits[1:]
    at = 0
    for index, example in enumerate(EXAMPLES):
        np.testing.assert_allclose(together[at : at + len(example)], apart[index, : len(example)], atol=1e-5, rtol=1e-5)
        at += len(example)
    if head == "span":
        assert (together[0, 5:] == HIDDEN).all()
        assert (together[17] == HIDDEN).all()
        assert len(np.unique(together[1:5, :5], axis=0)) == 1  # every place but the first scores the end
        assert not np.allclose(together[0, :5], together[1, :5])


def test_pointers_are_those_of_each_token_looked_up():
    random = np.random.default_rng(1)
    lengths = [[4, 1, 6], [2, 9], [11]]
    packed = rows([row([np.ones(n, int) for n in some], 12) for some in lengths])
    scores = random.normal(size=(3, 12, 2)).astype(np.float32)
    expected = np.full((3, 12, 12), HIDDEN, np.float32)
    for b, q in np.ndindex(3, 12):
        if packed.segments[b, q]:
            own = np.flatnonzero(packed.segments[b] == packed.segments[b, q])
            expected[b, q, : len(own)] = scores[b, own, int(packed.positions[b, q] > 0)]
    np.testing.assert_array_equal(pointers(scores, packed.positions, packed.segments), expected)


@pytest.mark.slow
def test_spans_on_a_mesh_that_divides_rows_equal_those_on_one_device():
    model, params = params_of(config("bert", head="span"))
    own = batch("encoder", rows([row(EXAMPLES, 16), row(EXAMPLES[::-1], 16)]), None)

    def value(params):
        logits = model.logits(params, own)
        return jax.numpy.sum(jax.numpy.where(logits > HIDDEN / 2, jax.numpy.sin(logits), 0.0))

    expected = quick_jit(jax.value_and_grad(value))(params)
    mesh = MeshConfig(data=1, fsdp=2, context=2, tensor=2).build()
    with activate(mesh):
        found = quick_jit(jax.value_and_grad(value))(jax.device_put(params, layout(model.specs, mesh)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), expected, found)


def test_rows_of_padding_alone_are_finite_with_their_gradients():
    model, params = params_of(config("bert", head="span"))
    blank = batch("encoder", row([], 6), None)
    gradients = quick_jit(jax.grad(lambda p: jax.nn.log_softmax(model.logits(p, blank)).mean()))(params)
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))


def test_published_counts_of_bert_with_each_head():
    """Of transformers' BertForSequenceClassification, two labels, and BertForQuestionAnswering, bert-base-uncased."""
    assert count(preset("bert:base", head="label", labels=("no", "yes"), pooler=True)) == 109_483_778
    assert count(preset("bert:base", head="span")) == 108_893_186
    assert count(preset("bert:base", head="tags", labels=("no", "yes"))) == 108_893_186


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"head": "label"}, "model.head 'label' needs two or more"),
        ({"head": "tags", "labels": ("a", "a")}, "needs two or more different"),
        ({"labels": ("a", "b")}, "model.labels is .* but model.head is 'tokens'"),
        ({"head": "span", "pooler": True}, "model.pooler is True, but model.head is 'span'"),
        ({"reference_label": True}, "model.reference_label is True, but model.head is 'tokens'"),
        (
            {"head": "tags", "labels": ("a", "b"), "pooling": "mean"},
            "model.pooling is 'mean', but model.head is 'tags'",
        ),
        ({"head": "lable"}, "unknown head 'lable'.*Nearest: label"),
        ({"pooler_activation": "rely"}, "unknown pooler_activation 'rely'.*Nearest: relu"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        config("bert", **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"head": "label", "labels": ("a", "b")}, r"BERT has pooler: true, the model false"),
        (
            {"head": "label", "labels": ("a", "b"), "pooler": True, "pooler_activation": "relu"},
            r'BERT has pooler_activation: "tanh", the model "relu"',
        ),
    ],
)
def test_a_head_that_transformers_lacks_is_refused_with_the_choice(fields, said):
    with pytest.raises(UserError, match=said):
        exportable(config("bert", **fields))


@pytest.mark.parametrize(("name", "function"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0.0))])
def test_the_poolers_activation(name, function):
    model, params = params_of(config("bert", **HEADS["label"], pooler_activation=name))
    hidden = RANDOM.normal(size=(4, 16)).astype(np.float32)
    pooler, output = (jax.tree.map(np.asarray, params["answer"][part]) for part in ("pooler", "output"))
    pooled = function(hidden @ pooler["kernel"] + pooler["bias"])
    assert (pooled != hidden @ pooler["kernel"] + pooler["bias"]).any()
    expected = pooled @ output["kernel"] + output["bias"]
    np.testing.assert_allclose(model.head(params, hidden), expected, rtol=1e-4, atol=1e-5)
