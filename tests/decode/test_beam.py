import jax
import numpy as np
import pytest

from t2t.decode import Beam, generate
from tests.decode.toy import Toy, ToyConfig, ToyEncoderDecoderConfig, all_outputs, batch_for, make

EOS = 1


def penalty(length, alpha):
    return ((5 + length) / 6) ** alpha


def best_by_enumeration(model, params, prompt, length, alpha, inputs=None, ends=(EOS,)):
    """Ended outputs first, each group by normalised score."""
    known = all_outputs(model, params, prompt, length, ends, inputs)
    ranked = [(ids[-1] not in ends, -log_prob / penalty(len(ids), alpha), ids) for ids, log_prob in known.items()]
    return [(list(ids) + [0] * (length - len(ids)), -score) for _, score, ids in sorted(ranked)]


@pytest.mark.parametrize("alpha", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(2))
def test_wide_beams_find_what_enumeration_finds(alpha, seed):
    model, params = make(ToyConfig(vocab_size=4, sharpness=0.7), seed)
    prompts = [[2], [3, 2, 2]]
    decoding = Beam(size=4**4, length_penalty=alpha, return_n=10)
    made = generate(model, params, batch_for(prompts), decoding, length=4, eos_id=EOS)
    for row, prompt in enumerate(prompts):
        best = best_by_enumeration(model, params, prompt, 4, alpha)[:10]
        np.testing.assert_allclose(made.scores[row], [score for _, score in best], rtol=1e-5)
        assert made.ids[row].tolist() == [ids for ids, _ in best]


@pytest.mark.parametrize("ends", [(1, 3), (3, 1), (3, 2, 1)])
def test_any_of_several_ends_ends_a_hypothesis(ends):
    model, params = make(ToyConfig(vocab_size=4, sharpness=0.7), 0)
    decoding = Beam(size=4**3, length_penalty=0.6, return_n=8)
    made = generate(model, params, batch_for([[2], [3, 2, 2]]), decoding, length=3, eos_id=ends)
    for row, prompt in enumerate([[2], [3, 2, 2]]):
        best = best_by_enumeration(model, params, prompt, 3, 0.6, ends=ends)
        real = np.isfinite(np.asarray(made.scores[row]))
        assert made.ids[row].tolist()[: real.sum()] == [ids for ids, _ in best[:8]]
        np.testing.assert_allclose(made.scores[row][real], [score for _, score in best[:8]], rtol=1e-5)


def test_all_outputs_come_back_when_asked_for_more_than_there_are():
    model, params = make(ToyEncoderDecoderConfig(vocab_size=3, sharpness=0.5), 0)
    decoding = Beam(size=20, return_n=20)
    made = generate(model, params, batch_for([[0]], [[2, 2]]), decoding, length=3, eos_id=EOS)
    best = best_by_enumeration(model, params, [0], 3, 0.6, [2, 2])
    assert len(best) == 4  # EOS; 2 EOS; 2 2 EOS; 2 2 2
    assert made.ids[0, :4].tolist() == [ids for ids, _ in best]
    np.testing.assert_allclose(made.scores[0, :4], [score for _, score in best], rtol=1e-5)
    assert (np.asarray(made.scores[0, 4:]) == -np.inf).all()
    assert (np.asarray(made.ids[0, 4:]) == 0).all()


@pytest.mark.parametrize("size", [2, 4])
def test_narrow_beams_return_distinct_outputs_with_true_scores_in_order(size):
    prompts = [[2], [3, 2, 2], [4, 5], [5]]
    model, params = make(ToyConfig(vocab_size=6, sharpness=0.8), size)
    decoding = Beam(size=size, length_penalty=0.0, return_n=size)
    made = generate(model, params, batch_for(prompts), decoding, length=4, eos_id=EOS)
    for row, prompt in enumerate(prompts):
        known = all_outputs(model, params, prompt, 4, EOS)
        outputs = [tuple(i for i in ids if i) for ids in made.ids[row].tolist()]
        assert len(set(outputs)) == size
        scores = np.asarray(made.scores[row])
        np.testing.assert_allclose(scores, [known[ids] for ids in outputs], rtol=1e-5)
        ended = np.array([ids[-1] == EOS for ids in outputs])
        assert ended.tolist() == sorted(ended, reverse=True)
        for group in (ended, ~ended):
            assert (np.diff(scores[group]) <= 0).all()


class Scripted(Toy):
    """Probabilities looked up by what was generated: a trie written down by hand."""

    table = None  # dict: tuple of ids -> dict id -> probability

    def _logits(self, history):
        vocab = self.config.vocab_size

        def look_up(histories):
            out = np.full((len(histories), vocab), 1e-9, np.float32)
            for row, history in enumerate(np.asarray(histories)):
                for token, probability in self.table.get(tuple(int(i) for i in history if i), {}).items():
                    out[row, token] = probability
            return np.log(out)

        shape = jax.ShapeDtypeStruct((history.shape[0], vocab), np.float32)
        return jax.pure_callback(look_up, shape, history)

    def start(self, params, batch, length):
        rows = batch.decoder.ids.shape[0]
        history = jax.numpy.zeros((rows, 6), jax.numpy.int32)
        return self._logits(history), (history, jax.numpy.zeros(rows, jax.numpy.int32))

    def step(self, params, cache, ids):
        history, used = cache
        history = history.at[jax.numpy.arange(len(used)), used].set(ids)
        return self._logits(history), (history, used + 1)


A, B, C = 2, 3, 4


def scripted(table):
    model = Scripted(ToyConfig(vocab_size=5))
    model.table = table
    return model


def test_an_ended_hypothesis_is_not_lost_to_longer_ones_that_never_end():
    # So strong a penalty puts B A B and B A C before A EOS, out of whose places it drops; neither then comes to an end.
    third = {A: 0.333, B: 0.333, C: 0.333, EOS: 0.001}
    table = {
        (): {A: 0.4, B: 0.6},
        (A,): {EOS: 0.8, C: 0.2},
        (B,): {A: 0.5, B: 0.5},
        (B, A): {B: 0.5, C: 0.5},
        (B, A, B): third,
        (B, A, C): third,
    }
    assert np.log(0.4 * 0.8) / penalty(2, 6.0) < np.log(0.6 * 0.5 * 0.5) / penalty(3, 6.0)
    decoding = Beam(size=2, length_penalty=6.0, return_n=2)
    made = generate(scripted(table), {}, batch_for([[B]]), decoding, length=4, eos_id=EOS)
    assert made.ids[0, 0].tolist() == [A, EOS, 0, 0]
    np.testing.assert_allclose(made.scores[0, 0], np.log(0.4 * 0.8) / penalty(2, 6.0), rtol=1e-5)
    assert made.ids[0, 1, :2].tolist() == [B, A]  # cut off by the length: after what ended, though its score is higher
    assert made.scores[0, 1] > made.scores[0, 0]


def test_goes_on_while_a_longer_hypothesis_can_still_win():
    # EOS at once has 0.5; A A A EOS has 0.49: worse by plain log-probability, better by a normalised one.
    table = {(): {EOS: 0.5, A: 0.49, C: 0.01}, (A,): {A: 1.0}, (A, A): {A: 1.0}, (A, A, A): {EOS: 1.0}}
    model = scripted(table)
    plain = generate(model, {}, batch_for([[B]]), Beam(size=2, length_penalty=0.0), length=5, eos_id=EOS)
    assert plain.ids[0, 0].tolist() == [EOS, 0, 0, 0, 0]
    normalised = generate(model, {}, batch_for([[B]]), Beam(size=2, length_penalty=0.6), length=5, eos_id=EOS)
    assert normalised.ids[0, 0].tolist() == [A, A, A, EOS, 0]
    np.testing.assert_allclose(normalised.scores[0, 0], np.log(0.49) / penalty(4, 0.6), rtol=1e-4)


def test_unlikely_early_ends_do_not_take_places_from_likelier_hypotheses():
    # At each step EOS is the second likeliest, but hardly likely; B's branch wins only late.
    table = {
        (): {A: 0.5, B: 0.42, EOS: 0.08},
        (A,): {A: 0.5, C: 0.42, EOS: 0.08},
        (B,): {B: 0.9, EOS: 0.1},
        (A, A): {A: 0.5, EOS: 0.5},
        (A, C): {A: 0.5, EOS: 0.5},
        (B, B): {EOS: 1.0},
    }
    made = generate(scripted(table), {}, batch_for([[B]]), Beam(size=2, length_penalty=0.0), length=4, eos_id=EOS)
    assert made.ids[0, 0].tolist() == [B, B, EOS, 0]
    np.testing.assert_allclose(made.scores[0, 0], np.log(0.42 * 0.9), rtol=1e-5)


def test_rows_do_not_disturb_one_another():
    model, params = make(ToyConfig(vocab_size=6, sharpness=0.8), 7)
    prompts, decoding = [[2], [3, 2, 2], [4, 5]], Beam(size=3, return_n=2)
    together = generate(model, params, batch_for(prompts), decoding, length=6, eos_id=EOS)
    for row, prompt in enumerate(prompts):
        others = [[5, 5, 5], prompt, [1]]
        apart = generate(model, params, batch_for(others), decoding, length=6, eos_id=EOS)
        np.testing.assert_array_equal(together.ids[row], apart.ids[1])
        np.testing.assert_allclose(together.scores[row], apart.scores[1], rtol=1e-5)
