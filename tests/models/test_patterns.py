"""Stacks whose layers follow a pattern, with layers of a user's own: one scan, a partial last repeat, meshes, packing and decoding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from t2t.config import dumps, loads
from t2t.config_classes import register
from t2t.decode import Beam, Greedy, generate
from t2t.errors import UserError
from t2t.launch.convert_check import cut
from t2t.models.block import Block
from t2t.models.config import LayerOptions
from t2t.models.states import Patterned
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.parameters import Definition
from t2t.nn.rotary import Rotary
from t2t.nn.sparse import Sparse
from t2t.objectives import CrossEntropy
from t2t.sharding import MeshConfig, activate, assume_platform
from t2t.train.state import create_state
from t2t.train.step import make_step
from tests.models.recurrence import RecurrenceConfig, ReportingConfig
from tests.models.test_sharded import layout, packed_batch
from tests.models.tiny import (
    VOCAB,
    batch,
    config,
    logits_of,
    loss,
    moved_steps,
    params_of,
    quick_jit,
    row,
    rows,
    some_batch,
)

LOCAL = LayerOptions(window=3)
STRIDED = LayerOptions(sparse=Sparse(stride=3))
FIXED = LayerOptions(sparse=Sparse(kind="fixed", stride=4, summaries=1))
GLOBAL = LayerOptions(rotary=Rotary(base=1e6))
PATTERNS = {
    # 5 local : 1 global, and two local ones at the end
    "gemma": {"num_layers": 8, "pattern": (*[LOCAL] * 5, GLOBAL)},
    "two": {
        "num_layers": 5,
        "pattern": (
            LayerOptions(mixer=RecurrenceConfig()),
            LayerOptions(num_heads=4, num_kv_heads=1, head_dim=6, d_ff=20),
        ),
    },
    "sparse": {"num_layers": 3, "pattern": (STRIDED, FIXED)},
    "own": {"num_layers": 3, "pattern": (LayerOptions(mixer=RecurrenceConfig()),)},
    # a first layer without a norm, like the rest of the layers or not
    "first": {"num_layers": 4, "first": (LayerOptions(window=3, mixer_norm=False),)},
    "first of a pattern": {
        "num_layers": 6,
        "norm": "layer_unbiased",
        "first": (LayerOptions(mixer_norm=False, d_ff=20),),
        "pattern": (LOCAL, GLOBAL),
    },
}


DIVISIBLE = {
    "two": {
        "pattern": (
            LayerOptions(mixer=RecurrenceConfig()),
            LayerOptions(num_heads=2, num_kv_heads=2, head_dim=6, d_ff=20),
        )
    }
}


def patterned(name, **overrides):
    return config("llama", **{**PATTERNS[name], **overrides})


def layers_of(settings, params):
    """Return each layer's block and parameters in order, as the stack should apply them."""
    stack, own = settings.decoder, params["decoder"]
    pattern, first = settings.pattern_of(stack), settings.first_of(stack)
    for depth, layer in enumerate(first):
        yield _block(layer, stack), own["first"][str(depth)]
    for depth in range(stack.num_layers - len(first)):
        repeat, place = divmod(depth, len(pattern))
        if len(pattern) == 1:
            found = jax.tree.map(lambda p, i=depth: p[i], own["layers"])
        elif repeat < (stack.num_layers - len(first)) // len(pattern):
            found = jax.tree.map(lambda p, i=repeat: p[i], own["layers"][str(place)])
        else:
            found = own["tail"][str(place)]
        yield _block(pattern[place], stack), found


def _block(layer, stack):
    return Block(layer, BuildOptions(width=stack.d_model, kernel_init=stack.kernel_init))


@pytest.mark.parametrize("name", PATTERNS)
def test_the_scan_equals_a_loop_over_layers(name):
    settings = patterned(name)
    model, params = params_of(settings)
    own = batch("decoder", None, row([np.arange(1, 8), np.arange(3, 7)], 12))
    tokens = own.decoder
    x = jnp.asarray(params["embeddings"]["token"]["table"])[tokens.ids]
    for block, found in layers_of(settings, params):
        context = block.prepared(Context(segments=tokens.segments, positions=jnp.asarray(tokens.positions)), {})
        x, _ = Definition(block).bind(found)(x, context)
    if settings.decoder.norm != "rms":
        x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * params["decoder"]["final_norm"]["scale"]
    real = tokens.segments > 0
    np.testing.assert_allclose(quick_jit(model.hidden)(params, own)[real], x[real], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gemma", "first of a pattern"])
def test_layers_taken_apart_for_convert_check_are_the_model(name):
    settings = patterned(name)
    model, params = params_of(settings)
    whole, own = cut(settings, params, "decoder", settings.decoder.num_layers)
    given = some_batch("decoder")
    expected = quick_jit(model.hidden)(params, given)
    np.testing.assert_allclose(quick_jit(whole.build().hidden)(own, given), expected, atol=1e-6, rtol=1e-6)


def test_local_layers_see_their_window_and_global_ones_all():
    """With one head whose layers are all local, a token bears on no more than depth * (window - 1) tokens behind it; the global one lifts that."""

    def reach(**options):
        model, params = params_of(config("llama", **options))
        own = some_batch("decoder", length=12, count=1)
        changed = np.array(own.decoder.ids)
        changed[:, 0] = (changed[:, 0] + 1) % VOCAB
        other = batch("decoder", None, row([changed[0]], 12))
        run = quick_jit(model.logits)
        return np.flatnonzero(np.abs(run(params, own) - run(params, other)).max(axis=(0, 2)) > 0).max()

    assert reach(num_layers=2, pattern=(LOCAL, LOCAL)) == 4
    assert reach(num_layers=2, pattern=(LOCAL, GLOBAL)) == 11


@pytest.mark.parametrize("name", PATTERNS)
def test_packed_equals_unpacked(name):
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n) for n in (4, 6, 3, 5)]
    own = batch("decoder", None, rows([row(texts, 21), *(row([x], 21) for x in texts)]))
    logits = np.asarray(logits_of(patterned(name))(own))
    at = 0
    for index, text in enumerate(texts):
        np.testing.assert_allclose(logits[0, at : at + len(text)], logits[index + 1, : len(text)], atol=1e-5, rtol=1e-5)
        at += len(text)


@pytest.mark.parametrize("platform", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PATTERNS)
def test_steps_equal_the_full_pass_for_ragged_prompts(name, platform):
    lengths, steps = [6, 1, 4], 3
    model, params = params_of(patterned(name))
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n + steps) for n in lengths]
    expected = np.asarray(logits_of(patterned(name))(batch("decoder", None, rows([row([x], 12) for x in texts]))))
    prompts = batch("decoder", None, rows([row([x[:n]], 7) for x, n in zip(texts, lengths, strict=True)]))

    with assume_platform(platform):
        logits, cache = quick_jit(functools.partial(model.start, length=12))(params, prompts)
        found, step = [logits], quick_jit(lambda params, cache, ids: model.stepper(params)(cache, ids))
        for at in range(steps):
            logits, cache = step(params, cache, np.array([x[n + at] for x, n in zip(texts, lengths, strict=True)]))
            found.append(logits)
    assert isinstance(cache["layers"]["cache"], tuple) == (platform == "cpu")
    assert isinstance(cache["layers"]["cache"], Patterned) == (platform == "gpu" and name != "own")
    for at, logits in enumerate(found):
        wanted = np.stack([expected[i, n - 1 + at] for i, n in enumerate(lengths)])
        np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", pytest.param("gpu", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PATTERNS)
def test_hypotheses_that_share_their_prompt_go_on_as_if_each_had_its_own(name, platform):
    model, params = params_of(patterned(name))
    random = np.random.default_rng(1)
    prompts = batch("decoder", None, rows([row([random.integers(1, VOCAB, n)], 7) for n in (6, 1, 4)]))
    tokens = random.integers(1, VOCAB, (3, 9))
    parents = np.array([[2, 0, 0, 3, 4, 4, 7, 8, 6], [1, 1, 2, 5, 3, 4, 6, 6, 8]])

    def start(params, own):
        _, cache = model.start(params, prompts, 9)
        cache = model.grow(cache, 11)
        cache = model.select(cache, np.repeat(np.arange(3), 3)) if own else model.fork(cache, 3)
        return cache

    with assume_platform(platform):
        shared, apart = (
            moved_steps(model, params, functools.partial(start, own=own), move, tokens, parents)
            for own, move in ((False, model.reorder), (True, model.select))
        )
    np.testing.assert_allclose(shared, apart, atol=1e-5, rtol=1e-5)
    assert not np.allclose(shared[-1][0], shared[-1][1])


@pytest.mark.parametrize("way", [Greedy(), Beam(size=3, return_n=2)])
def test_an_own_mixer_generates_what_its_full_pass_says(way):
    """Each generated text's score is the sum of its tokens' log-probabilities in a pass over the whole."""
    settings = patterned("own", vocab_size=VOCAB)
    model, params = params_of(settings)
    prompt = np.array([3, 7, 5])
    made = generate(model, params, batch("decoder", None, row([prompt], 4)), way, length=5, eos_id=VOCAB)
    texts = [np.concatenate([prompt, ids]) for ids in np.asarray(made.ids)[0]]
    scores = jax.nn.log_softmax(logits_of(settings)(batch("decoder", None, rows([row([x], 8) for x in texts]))))
    for text, logs, score in zip(texts, np.asarray(scores), np.asarray(made.scores)[0], strict=True):
        own = [logs[at - 1, text[at]] for at in range(3, 8)]
        if isinstance(way, Greedy):
            assert [logs[at - 1].argmax() for at in range(3, 8)] == list(text[3:])
        scale = ((5 + 5) / 6) ** way.length_penalty if isinstance(way, Beam) else 1.0
        np.testing.assert_allclose(sum(own) / scale, score, rtol=1e-4)


def test_an_own_mixer_learns_packed_texts():
    model = patterned("own", dropout=0.0).build()
    own = packed_batch("decoder")
    transform = optax.adam(1e-2)
    step = quick_jit(make_step(model, transform, CrossEntropy(), learning_rate=lambda step: step * 0 + 1e-2))
    state = create_state(model, transform, 0)
    losses = []
    for _ in range(30):
        state, metrics = step(state, own)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", [pytest.param("gemma", marks=pytest.mark.slow), "two", "sparse"])
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(name):
    settings = patterned(name, num_heads=4, **DIVISIBLE.get(name, {}))
    model, params = params_of(settings)
    own = packed_batch("decoder")

    def value(params):
        sums = CrossEntropy().loss(model, params, own, None)
        return sums.objective / sums.weight

    expected = quick_jit(jax.value_and_grad(value))(params)
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    places = layout(model.specs, mesh)
    with activate(mesh):
        spread = quick_jit(jax.value_and_grad(value), in_shardings=(places,), out_shardings=(None, places))(
            jax.device_put(params, places)
        )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5), expected, spread)


@pytest.mark.slow
def test_rounds_of_several_repeats_and_rematerialisation_change_nothing():
    own, key = some_batch("decoder"), jax.random.key(3)

    def gradients(**options):
        model, _ = params_of(patterned("two", dropout=0.2, **options))
        _, params = params_of(patterned("two"))
        return quick_jit(jax.grad(lambda p: CrossEntropy().loss(model, p, own, key).objective))(params)

    plain = gradients()
    for options in ({"unroll": 5}, {"remat": "full"}):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), plain, gradients(**options))


def test_the_program_does_not_grow_with_depth():
    def lines(repeats):
        model = patterned("two", num_layers=2 * repeats + 1, remat="full").build()
        shapes, own = jax.eval_shape(model.init, jax.random.key(0)), some_batch("decoder")

        def value(params, key):
            return CrossEntropy().loss(model, params, own, key).objective

        return jax.jit(jax.grad(value)).lower(shapes, jax.random.key(0)).as_text().count("\n")

    assert lines(2) == lines(40)


def test_a_pattern_of_equal_layers_is_the_stack_of_them():
    """The same layers, as one and as a pattern of two with a partial repeat, give the same logits."""
    plain, params = params_of(config("gpt", num_layers=3))
    twice = config("gpt", num_layers=3, pattern=(LayerOptions(), LayerOptions())).build()
    stacked = params["decoder"]["layers"]
    own = {str(place): jax.tree.map(lambda p, i=place: p[i : i + 1], stacked) for place in range(2)}
    tail = {"0": jax.tree.map(lambda p: p[2], stacked)}
    decoder = {**params["decoder"], "layers": own, "tail": tail}
    batch = some_batch("decoder")
    found = quick_jit(twice.logits)({**params, "decoder": decoder}, batch)
    np.testing.assert_allclose(found, quick_jit(plain.logits)(params, batch), atol=1e-6)


def test_relative_positions_are_shared_by_the_places_that_have_them():
    model = config(
        "t5", num_layers=3, pattern=(LayerOptions(), LayerOptions(d_ff=8), LayerOptions(num_heads=4))
    ).build()
    decoder = model.specs["decoder"]
    assert decoder["relative_bias"]["table"].shape == (8, 2)
    assert decoder["relative_bias-2"]["table"].shape == (8, 4)
    assert sum("relative_bias" in name for name in decoder) == 2


def test_terms_that_layers_report_are_summed_over_layers_and_microbatches():
    model, params = params_of(
        config("gpt", num_layers=4, pattern=(LayerOptions(), LayerOptions(feed_forward=ReportingConfig())))
    )
    sums, own = functools.partial(CrossEntropy().loss, model), packed_batch("decoder")
    total = sums(params, own)
    square, weight = total.extra["square"]
    assert float(weight) == 2 * float((own.decoder.segments > 0).sum())  # of two layers
    np.testing.assert_allclose(total.objective, total.loss + 0.5 * square, rtol=1e-6)
    parts = [sums(params, jax.tree.map(lambda x, i=i: x[i::2], own)) for i in range(2)]
    np.testing.assert_allclose(parts[0].extra["square"][0] + parts[1].extra["square"][0], square, rtol=1e-5)
    np.testing.assert_allclose(parts[0].objective + parts[1].objective, total.objective, rtol=1e-5)
    gradient = quick_jit(jax.grad(lambda p: sums(p, own).objective))(params)
    of_loss = quick_jit(jax.grad(lambda p: loss(model, p, own) * own.weights.sum()))(params)
    of_term = quick_jit(jax.grad(lambda p: 0.5 * model.forward(p, own)[1]["square"].sum))(params)
    together = jax.tree.map(jnp.add, of_loss, of_term)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-4), gradient, together)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(of_term)) > 1.0


def test_a_pattern_is_kept_in_a_configuration_file():
    settings = patterned("two")
    register(RecurrenceConfig)
    assert loads(dumps(settings)) == settings


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: config("gpt", pattern=(LayerOptions(num_heads=3),)),
            r"pattern\[0\]: model.num_heads is 3.*Nearest: 2",
        ),
        (lambda: config("llama", pattern=(LayerOptions(positions="learned"),)), r"pattern\[0\].positions is 'learned'"),
        (
            lambda: config("gpt", groups=1, pattern=(LayerOptions(),) * 2),
            r"model.groups is 1 together with a pattern of 2",
        ),
        (
            lambda: config("prefix", pattern=(LayerOptions(mixer=RecurrenceConfig()),)),
            r"RecurrenceConfig has no prefix mask .* Nearest: causal",
        ),
        (
            lambda: config("bert", pattern=(LayerOptions(mixer=RecurrenceConfig()),)),
            r"RecurrenceConfig does not see later tokens",
        ),
        (
            lambda: patterned("own").check_run(packing=True, context=2),
            r"cannot divide rows along .*--mesh.context 2.*Nearest: 1",
        ),
    ],
)
def test_what_a_layer_cannot_do_is_refused_in_one_line(make, said):
    with pytest.raises(UserError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)
