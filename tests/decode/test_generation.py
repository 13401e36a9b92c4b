import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.decode import Beam, Greedy, Sampling, generate
from t2t.decode.sampling import candidates, first_highest
from t2t.errors import UserError
from tests.decode.toy import Toy, ToyConfig, ToyEncoderDecoderConfig, all_outputs, batch_for, make, next_log_probs

EOS = 1


LOGITS_OF = jax.jit(lambda model, params, batch: model.logits(params, batch), static_argnums=0)


def full_forward_log_probs(model, params, prompt, inputs):
    batch = batch_for([prompt, [2] * 12], None if inputs is None else [inputs, [2] * 12])  # one shape for all
    return np.asarray(jax.nn.log_softmax(LOGITS_OF(model, params, batch)[0, len(prompt) - 1]))


def greedy_by_full_forward(model, params, prompt, length, inputs=None):
    output, total = [], 0.0
    while len(output) < length and (not output or output[-1] != EOS):
        log_probs = full_forward_log_probs(model, params, prompt + output, inputs)
        token = 1 + int(np.argmax(log_probs[1:]))
        output.append(token)
        total += float(log_probs[token])
    return output + [0] * (length - len(output)), total


@pytest.mark.parametrize("seed", range(3))
def test_greedy_is_the_argmax_of_the_full_forward_pass_for_ragged_prompts(seed):
    model, params = make(ToyConfig(), seed)
    prompts = [[2], [3, 4, 2], [4, 4], [2, 3, 2, 3]]
    made = generate(model, params, batch_for(prompts), Greedy(), length=6, eos_id=EOS)
    assert made.ids.shape == (4, 1, 6)
    for row, prompt in enumerate(prompts):
        ids, score = greedy_by_full_forward(model, params, prompt, 6)
        assert made.ids[row, 0].tolist() == ids
        np.testing.assert_allclose(made.scores[row, 0], score, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", [Greedy(), Sampling(samples=4)])
def test_any_of_several_ends_ends_a_row(seed, how):
    model, params = make(ToyConfig(vocab_size=6, sharpness=0.5), seed)
    prompts, key = batch_for([[2], [3, 4, 2], [4, 4], [2, 3, 2, 3]]), jax.random.key(seed)
    alone = np.asarray(generate(model, params, prompts, how, length=8, eos_id=99, key=key).ids).reshape(-1, 8)
    several = np.asarray(generate(model, params, prompts, how, length=8, eos_id=(1, 3, 5), key=key).ids).reshape(-1, 8)
    cut = 0
    for free, ended in zip(alone, several, strict=True):
        place = next((i for i, token in enumerate(free) if token in (1, 3, 5)), 7)
        cut += place < 7
        assert ended.tolist() == [*free[: place + 1], *[0] * (7 - place)]
    assert cut


def test_padding_that_ends_is_generated():
    model, params = make(ToyConfig(vocab_size=4, sharpness=0.5), 0)
    how, key = Sampling(samples=20), jax.random.key(0)
    made = generate(model, params, batch_for([[2]]), how, length=6, eos_id=(1, 3), key=key, pad_id=3)
    assert (np.asarray(made.ids) == 3).any()


def test_first_highest_is_argmax_with_ties_nan_and_infinities():
    nan, inf = np.nan, np.inf
    rows = [
        [1, 3, 3, 2],
        [-inf] * 4,
        [inf, 1, inf, 2],
        [5, nan, 6, nan],
        [nan, 7, 7, 7],
        [-inf, -inf, -1, -1],
        [0.0, -0.0, 0, -1],
    ]
    wide = jax.random.randint(jax.random.key(0), (32, 1000), -3, 3).astype(jnp.float32)
    wide = wide.at[7, [900, 300]].set(nan)
    for logits in (jnp.asarray(rows, jnp.float32), wide, jnp.asarray(rows, jnp.bfloat16)):
        found = jax.jit(first_highest)(logits)
        np.testing.assert_array_equal(found, jnp.argmax(logits, axis=-1))
        assert found.dtype == jnp.int32


def test_greedy_reads_the_encoder():
    model, params = make(ToyEncoderDecoderConfig())
    inputs = [[2, 3], [4, 4, 4], [3]]
    made = generate(model, params, batch_for([[0]] * 3, inputs), Greedy(), length=5, eos_id=EOS)
    for row, row_inputs in enumerate(inputs):
        ids, score = greedy_by_full_forward(model, params, [0], 5, row_inputs)
        assert made.ids[row, 0].tolist() == ids
        np.testing.assert_allclose(made.scores[row, 0], score, rtol=1e-5)


@pytest.mark.parametrize("decoding", [Greedy(), Sampling(temperature=3.0, samples=16), Beam(size=3, return_n=3)])
def test_only_padding_after_eos_and_none_before(decoding):
    model, params = make(ToyConfig(sharpness=0.5))
    made = generate(model, params, batch_for([[2], [3, 4]]), decoding, length=8, eos_id=EOS, key=jax.random.key(3))
    rows = np.asarray(made.ids).reshape(-1, 8)
    for row in rows:
        ends = np.flatnonzero(row == EOS)
        written = ends[0] + 1 if len(ends) else 8
        assert (row[:written] != 0).all()
        assert (row[written:] == 0).all()
    if isinstance(decoding, Sampling):
        assert (rows == EOS).any()
        assert not (rows == EOS).any(axis=1).all()


def test_ids_beyond_the_vocabulary_are_never_generated():
    model, params = make(ToyConfig(sharpness=0.1))
    decoding = Sampling(temperature=5.0, samples=64)
    made = generate(
        model, params, batch_for([[2]]), decoding, length=8, eos_id=EOS, key=jax.random.key(0), vocab_size=4
    )
    assert set(np.unique(made.ids)) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "decoding", [Sampling(top_k=1), Sampling(temperature=1e-4), Sampling(top_p=1e-6), Beam(size=1)]
)
@pytest.mark.parametrize("seed", range(2))
def test_limits_that_are_greedy(decoding, seed):
    model, params = make(ToyConfig(), seed)
    batch = batch_for([[2], [3, 4, 2], [4]])
    greedy = generate(model, params, batch, Greedy(), length=7, eos_id=EOS)
    other = generate(model, params, batch, decoding, length=7, eos_id=EOS, key=jax.random.key(seed))
    np.testing.assert_array_equal(greedy.ids, other.ids)
    if isinstance(decoding, Sampling):
        np.testing.assert_allclose(greedy.scores, other.scores, rtol=1e-6)


def test_samples_are_as_frequent_as_the_model_says():
    model, params = make(ToyConfig(sharpness=0.4))
    draws, temperature = 4000, 0.7
    decoding = Sampling(temperature=temperature, samples=draws)
    made = generate(model, params, batch_for([[2, 3]]), decoding, length=2, eos_id=EOS, key=jax.random.key(1))
    tempered = jax.nn.softmax(jnp.asarray(next_log_probs(model, params, [2, 3])[1:]) / temperature)
    first = np.asarray(made.ids)[0, :, 0]
    for token, probability in enumerate(np.asarray(tempered), start=1):
        sigma = np.sqrt(probability * (1 - probability) / draws)
        assert abs(np.mean(first == token) - probability) < 5 * sigma
    # The second token, given the first.
    given = np.asarray(made.ids)[0, first == 3, 1]
    tempered = np.asarray(jax.nn.softmax(jnp.asarray(next_log_probs(model, params, [2, 3, 3])[1:]) / temperature))
    sigmas = np.sqrt(tempered * (1 - tempered) / len(given))
    assert (np.abs(np.bincount(given, minlength=5)[1:] / len(given) - tempered) < 5 * sigmas).all()


def test_sample_scores_are_the_models_log_probabilities():
    model, params = make(ToyConfig(sharpness=0.5))
    made = generate(
        model, params, batch_for([[2]]), Sampling(temperature=2.0, top_k=3, samples=20), length=3, eos_id=EOS,
        key=jax.random.key(1),
    )  # fmt: skip
    known = all_outputs(model, params, [2], 3, EOS)
    for ids, score in zip(np.asarray(made.ids)[0].tolist(), made.scores[0], strict=True):
        np.testing.assert_allclose(score, known[tuple(i for i in ids if i)], rtol=1e-5)


def test_a_rows_own_key_makes_its_samples_independent_of_its_neighbours():
    model, params = make(ToyConfig(sharpness=0.3))
    keys = jax.random.split(jax.random.key(5), 3)
    decoding = Sampling(samples=4)
    together = generate(model, params, batch_for([[2, 2], [3], [4]]), decoding, length=6, eos_id=EOS, key=keys)
    alone = generate(model, params, batch_for([[3]]), decoding, length=6, eos_id=EOS, key=keys[1:2])
    np.testing.assert_array_equal(together.ids[1], alone.ids[0])
    assert len({tuple(row) for row in np.asarray(together.ids).reshape(12, 6).tolist()}) > 6


LOGITS = np.log(np.array([0.05, 0.4, 0.25, 0.2, 0.1]))


@pytest.mark.parametrize(
    ("top_k", "top_p", "support"),
    [
        (0, 1.0, {0, 1, 2, 3, 4}),
        (2, 1.0, {1, 2}),
        (9, 1.0, {0, 1, 2, 3, 4}),
        (0, 0.39, {1}),
        (0, 0.41, {1, 2}),
        (0, 0.66, {1, 2, 3}),
        (0, 0.86, {1, 2, 3, 4}),
        (2, 0.61, {1}),  # of the two kept, the first has 0.615 already
        (2, 0.62, {1, 2}),
        (3, 0.80, {1, 2, 3}),  # 0.47 + 0.29 = 0.76 of the three kept
    ],
)
def test_support_of_top_k_and_top_p(top_k, top_p, support):
    logits, ids = map(np.asarray, candidates(jnp.asarray(LOGITS), top_k, top_p))
    ids = np.arange(len(LOGITS)) if ids.ndim == 0 else ids  # None: all, in order
    kept = np.isfinite(logits)
    assert set(ids[kept].tolist()) == support
    np.testing.assert_allclose(logits[kept], LOGITS[ids[kept]], rtol=1e-6)


def test_top_k_and_top_p_restrict_what_is_drawn():
    model, params = make(ToyConfig(sharpness=0.3, vocab_size=12))
    log_probs = next_log_probs(model, params, [2])
    log_probs[0] = -np.inf
    best = set(np.argsort(-log_probs)[:3].tolist())
    made = generate(
        model, params, batch_for([[2]]), Sampling(top_k=3, samples=400), length=1, eos_id=EOS, key=jax.random.key(0)
    )
    assert set(np.unique(made.ids).tolist()) == best


def test_rows_without_a_prompt_stay_empty_and_hold_nothing_up():
    model, params = make(ToyConfig())
    prompts = [[2], []]
    for decoding in (Greedy(), Sampling(samples=2), Beam(size=2, return_n=2)):
        made = generate(model, params, batch_for(prompts), decoding, length=4, eos_id=EOS, key=jax.random.key(0))
        assert (made.ids[1] == 0).all()
        assert (made.scores[1] == 0).all()
        alone = generate(model, params, batch_for([[2]]), Greedy(), length=4, eos_id=EOS)
        if decoding == Greedy():
            np.testing.assert_array_equal(made.ids[0], alone.ids[0])


def test_stops_when_all_have_ended():
    model, params = Toy(ToyConfig()), make(ToyConfig())[1]
    steps = []
    plain_step = model.step

    def counting_step(params, cache, ids):
        jax.debug.callback(lambda: steps.append(1))
        return plain_step(params, cache, ids)

    model.step = counting_step
    longest = generate(model, params, batch_for([[2]]), Greedy(), length=9, eos_id=EOS)
    jax.effects_barrier()
    written = int((np.asarray(longest.ids) != 0).sum())
    assert len(steps) == written - 1
    steps.clear()
    # With every token an end, nothing is left to do after the first.
    first = int(longest.ids[0, 0, 0])
    generate(model, params, batch_for([[2]]), Greedy(), length=9, eos_id=first)
    jax.effects_barrier()
    assert steps == []


def test_equal_shapes_do_not_compile_again():
    model, params = Toy(ToyConfig()), make(ToyConfig())[1]
    generate(model, params, batch_for([[2, 3], [4]]), Greedy(), length=4, eos_id=EOS)
    traced = model.traces
    assert traced == 1
    generate(model, params, batch_for([[3], [2, 4]]), Greedy(), length=4, eos_id=EOS)
    assert model.traces == traced
    generate(model, params, batch_for([[3], [2, 4, 4]]), Greedy(), length=4, eos_id=EOS)
    assert model.traces == traced + 1


def test_positions_that_do_not_suffice_are_refused():
    model, params = make(ToyConfig(positions=6))
    fits = generate(model, params, batch_for([[2, 3, 4]]), Greedy(), length=4, eos_id=EOS)
    assert np.isfinite(fits.scores).all()
    with pytest.raises(UserError, match=r"3 tokens and 5 more do not fit the model's 6 positions. At most 4"):
        generate(model, params, batch_for([[2, 3, 4]]), Greedy(), length=5, eos_id=EOS)


@pytest.mark.parametrize(
    ("make_decoding", "said"),
    [
        (lambda: Sampling(temperature=0.0), r"temperature 0\.0 .* Nearest: 1"),
        (lambda: Sampling(top_p=1.5), "top_p 1.5"),
        (lambda: Sampling(top_k=-1), "top_k -1"),
        (lambda: Sampling(samples=0), "samples 0"),
        (lambda: Beam(size=0), "size 0"),
        (lambda: Beam(size=2, return_n=3), "return_n 3"),
        (lambda: Beam(length_penalty=-1.0), "length_penalty -1.0"),
    ],
)
def test_bad_decodings_are_refused(make_decoding, said):
    with pytest.raises(UserError, match=said):
        make_decoding()


def test_misuse():
    model, params = make(ToyConfig())
    with pytest.raises(ValueError, match="random key"):
        generate(model, params, batch_for([[2]]), Sampling(), length=2, eos_id=EOS)
    with pytest.raises(ValueError, match="typed"):
        generate(model, params, batch_for([[2]]), Sampling(), length=2, eos_id=EOS, key=jax.random.PRNGKey(0))
    with pytest.raises(UserError, match="length 0"):
        generate(model, params, batch_for([[2]]), Greedy(), length=0, eos_id=EOS)
