"""Models with retention, gated linear attention and Gated DeltaNet: packing, decoding, beams, meshes, hybrids with attention, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.config import dumps, loads
from t2t.decode import Beam, Greedy, generate
from t2t.errors import UserError
from t2t.models import retnet
from t2t.models.config import LayerOptions
from t2t.models.families import exportable
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.model import ParamSpec
from t2t.nn.parameters import Definition
from t2t.nn.recurrent.gated_delta_net import GatedDeltaNetConfig
from t2t.nn.recurrent.gated_linear_attention import GatedLinearAttentionConfig
from t2t.nn.recurrent.retention import RetentionConfig
from t2t.objectives import CrossEntropy
from t2t.plan import flops
from t2t.sharding import MeshConfig, activate, assume_platform
from tests.models.test_sharded import layout, packed_batch
from tests.models.tiny import VOCAB, batch, config, logits_of, params_of, quick_jit, row, rows, some_batch

MIXERS = {
    "retention": RetentionConfig(num_heads=2, key_dim=8, value_dim=12, chunk=4),
    "gated linear attention": GatedLinearAttentionConfig(
        num_heads=2, key_dim=8, value_dim=12, decay_rank=3, temperature=2.0, chunk=4
    ),
    "delta": GatedDeltaNetConfig(num_heads=4, num_key_heads=2, key_dim=8, value_dim=6, convolution=3, chunk=4),
}
RANDOM = np.random.default_rng(0)
TEXTS = [RANDOM.integers(1, VOCAB, n) for n in (9, 4, 7)]
PROMPTS = [6, 1, 4]
"""Number of tokens of each text that are its prompt."""
STEPS = 3


def settings(name, **overrides):
    """Return a decoder whose layers all have a mixer, or for "hybrid" two of Gated DeltaNet for each layer of gated attention."""
    layer = LayerOptions(mixer=MIXERS["delta" if name == "hybrid" else name])
    if name == "hybrid":
        overrides = {"num_layers": 5, "pattern": (layer, layer, LayerOptions()), "attention_gate": True, **overrides}
    return config("llama", **{"pattern": (layer,), **overrides})


ALL = (*MIXERS, "hybrid")


@functools.cache
def whole(name):
    """Return the logits of rows with one text each."""
    return np.asarray(logits_of(settings(name))(batch("decoder", None, rows([row([x], 21) for x in TEXTS]))))


@pytest.mark.parametrize("name", ALL)
def test_packed_equals_unpacked(name):
    packed = rows([row(TEXTS, 21), row(TEXTS[::-1], 21), row([TEXTS[1]], 21)])
    logits = np.asarray(logits_of(settings(name))(batch("decoder", None, packed)))
    for order, found in (((0, 1, 2), logits[0]), ((2, 1, 0), logits[1]), ((1,), logits[2])):
        at = 0
        for text in order:
            count = len(TEXTS[text])
            np.testing.assert_allclose(found[at : at + count], whole(name)[text, :count], atol=2e-5, rtol=1e-5)
            at += count


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
@pytest.mark.parametrize("name", ALL)
def test_steps_and_forked_steps_equal_the_full_pass(name, platform):
    model, params = params_of(settings(name))
    prompts = batch("decoder", None, rows([row([x[:n]], 8) for x, n in zip(TEXTS, PROMPTS, strict=True)]))
    tokens = [np.array([x[n + at] for x, n in zip(TEXTS, PROMPTS, strict=True)]) for at in range(STEPS)]

    def started(params):
        logits, cache = model.start(params, prompts, 9)
        return logits, cache, model.reorder(model.fork(model.grow(cache, 12), 2), np.array([1, 0, 2, 2, 5, 4]))

    def stepped(params, cache, forked, ids):
        step = model.stepper(params)
        return step(cache, ids), step(forked, jnp.repeat(ids, 2))

    with assume_platform(platform):
        logits, cache, forked = quick_jit(started)(params)
        found, step = [logits], quick_jit(stepped)
        for ids in tokens:
            (logits, cache), (both, forked) = step(params, cache, forked, ids)
            found.append(logits)
    for at, logits in enumerate(found):
        wanted = np.stack([whole(name)[i, n - 1 + at] for i, n in enumerate(PROMPTS)])
        np.testing.assert_allclose(logits, wanted, atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(both, np.repeat(np.asarray(found[-1]), 2, axis=0), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("way", [Greedy(), Beam(size=3, return_n=2)], ids=["greedy", "beams"])
@pytest.mark.parametrize("name", ["retention", "hybrid"])
def test_scores_of_generated_texts_are_those_of_the_full_pass(name, way):
    model, params = params_of(settings(name))
    prompt = np.array([3, 7, 5])
    made = generate(model, params, batch("decoder", None, row([prompt], 4)), way, length=5, eos_id=VOCAB)
    texts = [np.concatenate([prompt, ids]) for ids in np.asarray(made.ids)[0]]
    logits = logits_of(settings(name))(
        batch("decoder", None, rows([row([x], 21) for x in (*texts, prompt, prompt)][:3]))
    )
    scores = np.asarray(jax.nn.log_softmax(logits))
    scale = ((5 + 5) / 6) ** way.length_penalty if isinstance(way, Beam) else 1.0
    for text, logs, score in zip(texts, scores, np.asarray(made.scores)[0], strict=False):
        if isinstance(way, Greedy):
            assert [logs[at - 1].argmax() for at in range(3, 8)] == list(text[3:])
        np.testing.assert_allclose(sum(logs[at - 1, text[at]] for at in range(3, 8)) / scale, score, rtol=1e-4)


@pytest.mark.parametrize("name", MIXERS)
def test_a_decoder_of_an_encoder_decoder_can_have_the_mixer(name):
    plain = config("t5")
    decoder = dataclasses.replace(plain.decoder, pattern=(LayerOptions(mixer=MIXERS[name]),))
    model, params = params_of(dataclasses.replace(plain, decoder=decoder))
    own = some_batch("encoder_decoder", length=7)

    def both(params):
        prompt = dataclasses.replace(own, decoder=jax.tree.map(lambda x: x[:, :5], own.decoder))
        first, cache = model.start(params, prompt, 7)
        second, _ = model.step(params, cache, own.decoder.ids[:, 5])
        return model.logits(params, own), first, second

    logits, first, second = quick_jit(both)(params)
    np.testing.assert_allclose(first, logits[:, 4], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(second, logits[:, 5], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", MIXERS)
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(name):
    model, params = params_of(settings(name, num_layers=1))
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
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5), expected, spread)
    mixer = spread[1]["decoder"]["layers"][MIXERS[name].name]
    assert mixer["query"]["kernel"].addressable_shards[0].data.size * 4 == mixer["query"]["kernel"].size
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(mixer))


@pytest.mark.parametrize("name", MIXERS)
def test_the_state_does_not_grow_with_the_length(name):
    model, params = params_of(settings(name))

    def state(length):
        prompt = some_batch("decoder", length=length)
        cache = jax.eval_shape(lambda params: model.start(params, prompt, 2 * length)[1]["layers"]["cache"], params)
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), cache)

    assert state(3) == state(300)


@pytest.mark.parametrize("name", MIXERS)
def test_matrix_products_are_those_of_a_count_by_hand(name):
    model = settings(name, num_layers=1).build()
    shapes = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype),
        model.specs,
        is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
    )
    found = flops.dots(lambda params: model.hidden(params, some_batch("decoder")), shapes).total()
    tokens, width, inner, mixer = 16, 16, 24, MIXERS[name]
    heads, key, value, chunk = mixer.num_heads, mixer.key_dim, mixer.value_dim, mixer.chunk
    core = heads * (chunk * (key + value) + 2 * key * value)
    if name == "delta":
        # Two products with each token: its rate and its decay. Queries and keys have half as many heads.
        products = width * (2 * 2 * key + 3 * heads * value + 2 * heads)
        core += heads * (chunk * key + key * value + chunk * value + (chunk**2 - 1) // 3)  # the last two solve a system
    else:
        products = width * heads * (2 * key + 3 * value)
        products += (width + heads * key) * 3 if name == "gated linear attention" else 0
    assert found == 2 * tokens * (products + core + 3 * width * inner)


def test_retention_is_the_parallel_form_of_the_paper():
    """Sun et al. 2023, equations 5 to 8, with complex rotations: (Q K^T * D) V, a norm of each head, a gate and a projection."""
    heads, key, value, width, length = 3, 4, 6, 10, 7
    mixer = RetentionConfig(num_heads=heads, key_dim=key, value_dim=value, chunk=None)
    init = config("llama").decoder.kernel_init
    definition = Definition(mixer.build(BuildOptions(width=width, kernel_init=init)))
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda spec: random.normal(size=spec.shape), definition.specs, is_leaf=lambda one: isinstance(one, ParamSpec)
    )
    x, n = random.normal(size=(1, length, width)), np.arange(length)
    context = Context(segments=np.ones((1, length), np.int32), positions=jnp.asarray(n)[None])
    context = dataclasses.replace(context, inputs=mixer.prepare(context, {}))
    found, _ = definition.bind(jax.tree.map(jnp.asarray, params))(jnp.asarray(x, jnp.float32), context)

    q, k, v, g = ((x[0] @ params[name]["kernel"]) for name in ("query", "key", "value", "gate"))
    theta = 10_000.0 ** -np.linspace(0, 1, key // 2)
    normed = []
    for head in range(heads):
        own = slice(head * key, (head + 1) * key)
        rotated = [
            (y[:, own][:, : key // 2] + 1j * y[:, own][:, key // 2 :]) * np.exp(1j * n[:, None] * theta) for y in (q, k)
        ]
        decay = np.tril((1 - 2.0 ** (-5 - head)) ** (n[:, None] - n[None, :]).clip(0))
        out = ((rotated[0] @ rotated[1].conj().T).real / key**0.5 * decay) @ v[:, head * value : (head + 1) * value]
        centred = out - out.mean(-1, keepdims=True)
        normed.append(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6))
    gated = g / (1 + np.exp(-g)) * np.concatenate(normed, axis=-1)
    np.testing.assert_allclose(found[0], gated @ params["out"]["kernel"], atol=2e-4, rtol=1e-4)


def test_a_retnet_has_the_widths_of_the_paper():
    made = retnet.retnet(num_layers=1, d_model=64, head_dim=16, vocab_size=VOCAB)
    assert made.decoder.d_ff == 128
    assert made.decoder.pattern[0].mixer == RetentionConfig(num_heads=4, key_dim=16, value_dim=32)
    assert loads(dumps(made)) == made
    with pytest.raises(UserError, match=r"head_dim is 48, which does not divide d_model = 64. Nearest: (32|64)"):
        retnet.retnet(num_layers=1, d_model=64, head_dim=48)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda layer: config("bert", pattern=(layer,)), "does not see later tokens"),
        (lambda layer: config("prefix", pattern=(layer,)), "has no prefix mask.*Nearest: causal"),
        (
            lambda layer: config("gpt", pattern=(layer,)).check_run(packing=True, context=2),
            "cannot divide rows along their length .*Nearest: 1",
        ),
    ],
    ids=["encoder", "prefix", "context"],
)
def test_what_the_mixers_cannot_do_is_refused_in_one_line(name, make, said):
    with pytest.raises(UserError, match=f"{type(MIXERS[name]).__name__} {said}") as caught:
        make(LayerOptions(mixer=MIXERS[name]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["retention", "gated linear attention"])
def test_transformers_has_no_such_layers(name):
    mixer = type(MIXERS[name]).__name__
    with pytest.raises(UserError, match=rf"no decoder there has layers with a {mixer} .*Nearest: --format safetensors"):
        exportable(settings(name))


def test_widths_that_do_not_go_together_are_refused():
    with pytest.raises(UserError, match=r"num_key_heads is 3 .*does not divide num_heads = 4. Nearest: 2"):
        GatedDeltaNetConfig(num_heads=4, num_key_heads=3)
    with pytest.raises(UserError, match=r"key_dim is 5 .*even width. Nearest: 6"):
        RetentionConfig(num_heads=2, key_dim=5)
