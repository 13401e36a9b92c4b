"""Decoders of Mamba and Mamba-2, and encoders of Mamba: packing, decoding with a state of one size, meshes, FLOPs, layers without a feed-forward layer, and what is refused."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from t2t.config import dumps, loads
from t2t.decode import Beam, Greedy, generate
from t2t.errors import UserError
from t2t.models import bert, count, preset
from t2t.models.config import LayerOptions
from t2t.models.families import exportable
from t2t.nn.mixers import BuildOptions, Context
from t2t.nn.model import ParamSpec
from t2t.nn.parameters import Definition
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.plan import flops
from t2t.sharding import MeshConfig, assume_platform
from tests.models.test_sharded import check_on
from tests.models.tiny import VOCAB, batch, config, logits_of, params_of, quick_jit, row, rows, some_batch

NAMES = ["mamba", "mamba2"]
LENGTHS, STEPS = [6, 1, 4], 3
BOTH = LayerOptions(mixer=MambaConfig(inner=32, state_size=6, dt_rank=1, chunk=4))
LAYER = LayerOptions(mixer=Mamba2Config(num_heads=4, head_dim=8, state_size=6, chunk=4))


def hybrid():
    """Return an encoder-decoder, one of whose two decoder layers is Mamba-2 before cross attention."""
    whole = config("t5")
    return dataclasses.replace(whole, decoder=dataclasses.replace(whole.decoder, pattern=(LAYER, LayerOptions())))


def settings_of(name):
    if name == "encoder":
        return config("bert", positions="none", pattern=(BOTH,))
    return hybrid() if name == "encoder-decoder" else config(name)


@pytest.mark.parametrize("name", [*NAMES, "encoder-decoder", "encoder"])
def test_packed_equals_unpacked(name):
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n) for n in (4, 6, 3, 5)]
    own = rows([row(texts, 21), *(row([x], 21) for x in texts)])
    logits = np.asarray(logits_of(settings_of(name))(batch(settings_of(name).kind, own, own)))
    at = 0
    for index, text in enumerate(texts):
        np.testing.assert_allclose(logits[0, at : at + len(text)], logits[index + 1, : len(text)], atol=1e-5, rtol=1e-5)
        at += len(text)
    assert float(np.std(logits)) > 0.05


@pytest.mark.parametrize(
    ("name", "platform"),
    [
        *((name, "cpu") for name in (*NAMES, "encoder-decoder")),
        *(pytest.param(name, "gpu", marks=pytest.mark.slow) for name in NAMES),
    ],
)
def test_steps_equal_the_full_pass_for_ragged_prompts(name, platform):
    model, params = params_of(settings_of(name))
    random = np.random.default_rng(0)
    texts = [random.integers(1, VOCAB, n + STEPS) for n in LENGTHS]
    encoder = rows([row([random.integers(1, VOCAB, n)], 9) for n in (9, 3, 6)])
    whole = batch(model.config.kind, encoder, rows([row([x], 12) for x in texts]))
    prompts = batch(model.config.kind, encoder, rows([row([x[:n]], 7) for x, n in zip(texts, LENGTHS, strict=True)]))
    expected = np.asarray(logits_of(settings_of(name))(whole))

    with assume_platform(platform):
        logits, cache = quick_jit(functools.partial(model.start, length=12))(params, prompts)
        found, step = [logits], quick_jit(lambda params, cache, ids: model.stepper(params)(cache, ids))
        for at in range(STEPS):
            logits, cache = step(params, cache, np.array([x[n + at] for x, n in zip(texts, LENGTHS, strict=True)]))
            found.append(logits)
    for at, logits in enumerate(found):
        wanted = np.stack([expected[i, n - 1 + at] for i, n in enumerate(LENGTHS)])
        np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["mamba2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mamba", "encoder-decoder"))]
)
def test_hypotheses_that_share_their_prompt_go_on_as_if_each_had_its_own(name):
    model, params = params_of(settings_of(name))
    random = np.random.default_rng(1)
    texts = rows([row([random.integers(1, VOCAB, n)], 7) for n in LENGTHS])
    prompts = batch(model.config.kind, texts, texts)
    tokens, parents = random.integers(1, VOCAB, (2, 9)), np.array([2, 0, 0, 3, 4, 4, 7, 8, 6])

    def decoded(params, own):
        _, cache = model.start(params, prompts, 9)
        cache = model.select(cache, np.repeat(np.arange(3), 3)) if own else model.fork(cache, 3)
        step = model.stepper(params)
        first, cache = step(cache, tokens[0])
        cache = (model.select if own else model.reorder)(cache, parents)
        return first, step(cache, tokens[1])[0]

    shared, apart = quick_jit(lambda params: [decoded(params, own) for own in (False, True)])(params)
    np.testing.assert_allclose(shared, apart, atol=1e-5, rtol=1e-5)
    assert not np.allclose(shared[-1][0], shared[-1][1])


@pytest.mark.parametrize("way", [Greedy(), Beam(size=3, return_n=2)])
def test_what_is_generated_has_the_scores_of_the_full_pass(way):
    model, params = params_of(config("mamba2"))
    prompt = np.array([3, 7, 5])
    made = generate(model, params, batch("decoder", None, row([prompt], 4)), way, length=5, eos_id=VOCAB)
    texts = [np.concatenate([prompt, ids]) for ids in np.asarray(made.ids)[0]]
    whole = batch("decoder", None, rows([row([x], 12) for x in (*texts, prompt)][:3]))
    scores = np.asarray(jax.nn.log_softmax(logits_of(config("mamba2"))(whole)))
    for text, logs, score in zip(texts, scores, np.asarray(made.scores)[0], strict=False):
        own = [logs[at - 1, text[at]] for at in range(3, 8)]
        if isinstance(way, Greedy):
            assert [logs[at - 1].argmax() for at in range(3, 8)] == list(text[3:])
        scale = ((5 + 5) / 6) ** way.length_penalty if isinstance(way, Beam) else 1.0
        np.testing.assert_allclose(sum(own) / scale, score, rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_state_has_one_size_whatever_the_length(name):
    model, _ = params_of(config(name))
    found = jax.tree.leaves(states_of(model, 3, 5)), jax.tree.leaves(states_of(model, 40, 4000))
    assert found[0] == found[1]
    hidden = {"mamba": (1, 6, 32), "mamba2": (1, 4, 8, 6)}[name]
    assert found[0][0].shape == hidden


def states_of(model, prompt, length):
    """Return the shapes of the states after a prompt, with room for `length` positions."""
    given = batch("decoder", None, row([np.ones(prompt, int)], prompt))
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.eval_shape(lambda params: model.start(params, given, length)[1]["layers"]["cache"], shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_on_a_mesh_equal_those_on_one_device(name):
    divided = check_on(MeshConfig(data=2, fsdp=2, tensor=2).build(), name)
    kernel = divided["decoder"]["layers"][name]["x"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(divided))


def test_an_encoder_adds_a_mamba_that_reads_from_the_end():
    """Schiff et al. 2024, figure 1: the sum of a Mamba of the text and of one of the reversed text, which have the same first and last products."""
    settings = config("bert").encoder
    build = functools.partial(BuildOptions, width=16, kernel_init=settings.kernel_init)
    both, one = (Definition(BOTH.mixer.build(build(bidirectional=given))) for given in (True, False))
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda spec: random.normal(scale=0.3, size=spec.shape).astype(np.float32),
        both.specs,
        is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
    )
    forward = {name: part for name, part in params.items() if name != "reverse"}
    x, context = random.normal(size=(2, 7, 16)).astype(np.float32), Context(segments=np.ones((2, 7), np.int32))

    def compared(params, forward):
        backward = one.bind({**forward, **params["reverse"]})(x[:, ::-1], context)[0][:, ::-1]
        return both.bind(params)(x, context)[0], one.bind(forward)(x, context)[0] + backward

    found, wanted = quick_jit(compared)(params, forward)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert sorted(params["reverse"]) == sorted(forward.keys() - {"x", "gate", "out"})


def products(settings, given):
    model = settings.build()
    shapes = jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype),
        model.specs,
        is_leaf=lambda leaf: isinstance(leaf, ParamSpec),
    )
    return flops.dots(lambda params, batch: model.logits(params, batch), shapes, given).total()


def test_flops_are_those_of_a_count_by_hand():
    rows_, length, chunk, layers = 2, 8, 4, 2
    tokens, given = rows_ * length, some_batch("decoder", count=rows_, length=length)
    width, inner, state, head = 16, 32, 6, 2 * tokens * 16 * VOCAB
    heads, groups, head_dim, rank = 4, 2, 8, 1
    linear = 2 * tokens * (width * (2 * inner + 2 * groups * state + heads) + inner * width)
    # For each token: products with the tokens of its chunk, with the state before it, and its part in the state after it.
    scan = 2 * tokens * (chunk * (groups * state + heads * head_dim) + 2 * heads * head_dim * state)
    assert products(config("mamba2"), given) == layers * (linear + scan) + head
    # The scan of Mamba has no matrix products.
    linear = 2 * tokens * (width * 2 * inner + inner * (rank + 2 * state) + rank * inner + inner * width)
    assert products(config("mamba"), given) == layers * linear + head


@pytest.mark.parametrize("name", NAMES)
def test_layers_have_neither_a_feed_forward_layer_nor_its_norm(name):
    settings = config(name)
    assert sorted(settings.build().specs["decoder"]["layers"]) == [name, f"{name}_norm"]
    assert loads(dumps(settings)) == settings
    std = settings.decoder.kernel_init(32, residual=True).std
    assert std == pytest.approx(0.2 / 2**0.5)  # one kernel of each of two layers writes to the residual stream


def test_attention_layers_may_have_no_feed_forward_layer_either():
    whole, without = config("llama"), config("llama", pattern=(LayerOptions(), LayerOptions(d_ff=0)))
    assert count(whole) - count(without) == 3 * 16 * 24 + 16
    assert np.isfinite(logits_of(without)(some_batch("decoder"))).all()
    with pytest.raises(UserError, match=r"num_experts is 4, and model.d_ff is 0: .*expert_d_ff"):
        config("llama", d_ff=0, num_experts=4)


def test_the_mixers_of_a_preset_follow_its_width():
    small = preset("mamba:2-130m", d_model=128, num_layers=2, vocab_size=VOCAB)
    mixer = small.decoder.pattern[0].mixer
    assert (mixer.num_heads, mixer.head_dim, mixer.state_size) == (4, 64, 128)
    assert exportable(small)[1]["num_heads"] == 4
    biased = preset("mamba:2-130m", d_model=128, num_layers=2, vocab_size=VOCAB, mixer={"biases": True})
    _, options, tensors = exportable(biased)
    assert options["use_bias"]
    (joined,) = (one for one in tensors if one.name == "backbone.layers.1.mixer.in_proj.bias")
    assert [path.split("/")[3] for path in joined.ours] == ["gate", "x", "b", "c", "dt"]


def refused(name, **options):
    settings = config(name)
    return dataclasses.replace(settings, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: refused("mamba", mask="prefix"), r"MambaConfig has no prefix mask .*Nearest: causal"),
        (
            lambda: bert.bert(num_layers=1, d_model=16, num_heads=2, pattern=(LAYER,)),
            r"Mamba2Config does not see later tokens",
        ),
        (
            lambda: config("mamba2").check_run(packing=True, context=2),
            r"Mamba2Config cannot divide rows along their length .*Nearest: 1",
        ),
        (
            lambda: exportable(config("mamba2", norm_epsilon=1e-3)),
            r"no model like this one: .*Mamba-2 has .*norm_epsilon",
        ),
        (lambda: exportable(hybrid()), r"no encoder_decoder there has layers with a Mamba2Config .*Nearest: --format"),
        (lambda: exportable(settings_of("encoder")), r"no encoder there has layers with a MambaConfig"),
    ],
)
def test_what_the_mixers_lack_is_refused_in_one_line(make, message):
    with pytest.raises(UserError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
