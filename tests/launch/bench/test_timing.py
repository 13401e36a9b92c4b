import jax
import jax.numpy as jnp
import pytest

from t2t.errors import UserError
from t2t.launch.bench.timing import LEAST, Limits, programs_compiled, repeat


def test_samples_are_as_many_as_asked_for_without_the_warm_up():
    taken = iter(range(100))
    assert repeat(lambda: next(taken), Limits(repeats=5, seconds=60.0), warmups=2) == [2, 3, 4, 5, 6]


def test_a_median_has_a_few_samples_however_short_the_time():
    assert len(repeat(lambda: 0, Limits(repeats=50, seconds=1e-9))) == LEAST
    assert len(repeat(lambda: 0, Limits(repeats=50, seconds=1e-9), least=1)) == 1
    assert len(repeat(lambda: 0, Limits(repeats=2, seconds=60.0))) == 2


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"repeats": 0}, r"repeats 0 .* Nearest: 1\."), ({"seconds": 0.0}, r"seconds 0\.0 .* Nearest: 0\.1")],
)
def test_limits_that_measure_nothing_are_refused(limits, message):
    with pytest.raises(UserError, match=message):
        Limits(**limits)


def test_programs_are_counted_while_asked_for():
    function = jax.jit(lambda x: jnp.tanh(x) * 3.25)
    with programs_compiled() as first:
        function(jnp.zeros(7))
    with programs_compiled() as again:
        function(jnp.zeros(7))
    function(jnp.zeros(9))
    assert first
    assert again == []
