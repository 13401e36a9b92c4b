import jax
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.optim import Constant, Cosine, InverseSquareRoot, Linear, WarmupStableDecay


def values(schedule, *steps):
    rate = schedule.build()
    return [float(rate(step)) for step in steps]


def test_t5_pretraining_rate_is_one_over_the_root_of_the_step():
    # Raffel et al. 2020: 1 / sqrt(max(n, k)), k = 10^4, so 0.01 for the first 10^4 steps.
    assert values(InverseSquareRoot(), 0, 9_999, 10_000, 40_000, 2**19) == pytest.approx(
        [0.01, 0.01, 0.01, 0.005, 2**-9.5], rel=1e-6
    )


def test_inverse_square_root_rises_where_asked():
    # Vaswani et al. 2017, base model: d_model^-0.5 * min(step^-0.5, step * warmup^-1.5).
    peak = 512**-0.5 * 4000**-0.5
    got = values(InverseSquareRoot(peak=peak, warmup=4000, rise=True), 0, 1000, 4000, 16000)
    want = [512**-0.5 * min(max(n, 1) ** -0.5, n * 4000**-1.5) for n in (0, 1000, 4000, 16000)]
    assert got == pytest.approx(want, rel=1e-5)


def test_bert_rate():
    bert = Linear(peak=1e-4, warmup=10_000, steps=1_000_000)
    assert values(bert, 0, 5_000, 10_000, 505_000, 1_000_000, 2_000_000) == pytest.approx(
        [0, 5e-5, 1e-4, 5e-5, 0, 0], rel=1e-5, abs=1e-10
    )


def test_gpt3_rate_ends_at_a_tenth():
    gpt = Cosine(peak=6e-4, warmup=375, steps=260_000)
    middle = 375 + (260_000 - 375) // 2
    assert values(gpt, 375, middle, 260_000, 300_000) == pytest.approx([6e-4, 3.3e-4, 6e-5, 6e-5], rel=1e-3)


def test_warmup_stable_decay_holds_its_peak_until_the_last_steps():
    schedule = WarmupStableDecay(peak=5e-4, warmup=2_000, steps=100_000, decay_steps=10_000)
    got = values(schedule, 0, 1_000, 2_000, 50_000, 90_000, 95_000, 100_000, 200_000)
    assert got == pytest.approx([0, 2.5e-4, 5e-4, 5e-4, 5e-4, 2.5e-4, 0, 0], rel=1e-4, abs=1e-9)
    to_a_tenth = WarmupStableDecay(peak=1.0, steps=10, decay_steps=10, final=0.1)
    assert values(to_a_tenth, 0, 5, 10) == pytest.approx([1, 0.55, 0.1])


def test_warmup_stable_decay_falls_with_the_root():
    # Hägele et al. 2024, section 3.2: (1 - sqrt((n - (N - N_decay)) / N_decay)) of the peak.
    schedule = WarmupStableDecay(peak=8e-4, warmup=2_000, steps=400_000, decay_steps=10_000, shape="sqrt")
    steps = [389_999, 390_000, 390_001, 390_100, 392_500, 399_999, 400_000, 500_000]
    want = [8e-4 * (1 - min(max((n - 390_000) / 10_000, 0), 1) ** 0.5) for n in steps]
    assert values(schedule, *steps) == pytest.approx(want, rel=1e-5, abs=1e-10)
    assert values(schedule, 0, 1_000, 2_000, 200_000) == pytest.approx([0, 4e-4, 8e-4, 8e-4])
    to_a_tenth = WarmupStableDecay(peak=1.0, steps=8, decay_steps=8, final=0.1, shape="sqrt")
    assert values(to_a_tenth, 0, 2, 8) == pytest.approx([1, 0.55, 0.1])


@pytest.mark.parametrize(("decay_steps", "best"), [(0, 1), (-3, 1), (91, 90)])
def test_the_last_fall_lies_between_warmup_and_end(decay_steps, best):
    with pytest.raises(UserError, match=rf"decay_steps:? {decay_steps} .* Nearest: {best}\."):
        WarmupStableDecay(peak=1.0, warmup=10, steps=100, decay_steps=decay_steps)


def test_constant_with_warmup():
    assert values(Constant(peak=1e-3, warmup=10), 0, 5, 10, 999) == pytest.approx([0, 5e-4, 1e-3, 1e-3])
    assert values(Constant(), 0, 10**6) == pytest.approx([1e-3, 1e-3])


@pytest.mark.parametrize(
    "schedule",
    [
        Constant(warmup=3),
        InverseSquareRoot(warmup=5),
        Linear(steps=20, warmup=2),
        Cosine(steps=20, warmup=2),
        WarmupStableDecay(peak=1e-3, steps=20, warmup=2, decay_steps=5),
        WarmupStableDecay(peak=1e-3, steps=20, warmup=2, decay_steps=5, shape="sqrt"),
    ],
)
def test_traced_rate_equals_the_eager_one_and_never_passes_the_peak(schedule):
    rate = schedule.build()
    steps = np.arange(40)
    traced = jax.jit(jax.vmap(rate))(steps)
    np.testing.assert_allclose(traced, [rate(int(step)) for step in steps], rtol=1e-5)
    assert np.all(traced <= schedule.peak * 1.000001)
    assert np.all(np.diff(traced[schedule.warmup :]) <= 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Constant(peak=0.0),
            r"peak 0\.0 \(Constant\.peak\) is not a number from 1e-12 to 1000\. Nearest: 0\.001",
        ),
        (lambda: Constant(warmup=-1), r"warmup -1 \(Constant\.warmup\).* Nearest: 0"),
        (lambda: InverseSquareRoot(warmup=0), "InverseSquareRoot.warmup"),
        (lambda: Linear(steps=100, warmup=100), "Linear.steps: 100 is not more than the 100 warm-up steps"),
        (lambda: Cosine(steps=100, final=2.0), r"final 2\.0 \(Cosine\.final\).* Nearest: 1"),
    ],
)
def test_impossible_schedules_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
