import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.recurrent import delta_rule, wkv7
from t2t.nn.recurrent.triangular import solve_unit_lower


def drawn(count, scale=1.0):
    draw = np.random.default_rng(count)
    return scale * draw.normal(size=(2, 3, count, count)), draw.normal(size=(2, 3, count, 5))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 13, 64])
def test_the_solution_and_its_gradient_are_those_of_a_dense_solve(count):
    system, right = drawn(count, 0.3)

    def dense(system, right):
        return jnp.linalg.solve(jnp.eye(count) + jnp.tril(system, -1), right)

    with jax.enable_x64(True):
        given = jnp.asarray(system), jnp.asarray(right)
        np.testing.assert_allclose(solve_unit_lower(*given), dense(*given), rtol=1e-9, atol=1e-9)
        gradients = [
            jax.grad(lambda *given, solve=solve: jnp.sum(jnp.sin(solve(*given))), (0, 1))(*given)
            for solve in (solve_unit_lower, dense)
        ]
        for one, other in zip(*gradients, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)


def test_a_matrix_of_ones_whose_powers_are_huge_is_solved_accurately():
    ones, (_, right) = np.ones((64, 64)), drawn(64)
    # Each unknown is a right side minus the one before it.
    expected = right - np.pad(right, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    found = solve_unit_lower(jnp.asarray(ones, jnp.float32), jnp.asarray(right, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("module", [delta_rule, wkv7])
def test_no_operator_calls_lapack_whose_calls_wait_for_threads_that_they_block(module):
    kinds = {delta_rule: delta_rule.DeltaTerms, wkv7: wkv7.Terms}
    shape = jax.ShapeDtypeStruct((2, 32, 4, 8), jnp.float32)
    terms = kinds[module](*[shape] * len(kinds[module]._fields))
    if module is delta_rule:
        of_tokens = jax.ShapeDtypeStruct((2, 32, 4), jnp.float32)
        terms = terms._replace(log_decay=of_tokens, rate=of_tokens)
    operator = delta_rule.over_rows if module is delta_rule else wkv7.wkv7
    text = jax.jit(jax.grad(lambda terms: jnp.sum(operator(terms, np.ones((2, 32), np.int32), 8)[0]))).lower(terms)
    assert "lapack" not in text.as_text()
