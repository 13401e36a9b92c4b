import jax.numpy as jnp
import numpy as np
import pytest

from t2t.checkpoint import initialise
from t2t.errors import UserError


def params(value, dtype=jnp.float32, vocab=4):
    return {
        "embedding": jnp.full((vocab, 2), value, dtype),
        "encoder": {"mlp": {"w": jnp.full((2, 3), value, dtype)}, "norm": jnp.full((2,), value, dtype)},
        "decoder": {"norm": jnp.full((2,), value, dtype)},
    }


def test_takes_what_the_patterns_choose_in_the_own_dtype():
    result = initialise(params(0, jnp.bfloat16), params(1), include=("encoder/**", "embedding"), exclude=("**/norm",))
    assert result.taken == ("embedding", "encoder/mlp/w")
    assert result.fresh == ("encoder/norm", "decoder/norm")
    assert result.unused == ("encoder/norm", "decoder/norm")
    assert result.params["encoder"]["mlp"]["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(result.params["encoder"]["mlp"]["w"], 1)
    np.testing.assert_array_equal(result.params["encoder"]["norm"], 0)
    assert "2 of 4 parameters" in result.report()
    assert "decoder/norm" in result.report()


def test_all_by_default_and_folders_by_name():
    assert initialise(params(0), params(1)).fresh == ()
    assert initialise(params(0), params(1), include=("encoder",)).taken == ("encoder/mlp/w", "encoder/norm")
    assert initialise(params(0), params(1), include=("*/norm",)).taken == ("encoder/norm", "decoder/norm")


def test_what_does_not_fit_is_told():
    with pytest.raises(UserError, match=r"include: the pattern 'encodr/\*\*' matches no parameter. Nearest: "):
        initialise(params(0), params(1), include=("encodr/**",))
    with pytest.raises(UserError, match="exclude: the pattern 'head' matches no parameter"):
        initialise(params(0), params(1), exclude=("head",))
    with pytest.raises(UserError, match=r"embedding is \[4, 2\] in the source but \[9, 2\] here"):
        initialise(params(0, vocab=9), params(1))
    assert initialise(params(0, vocab=9), params(1), exclude=("embedding",)).fresh == ("embedding",)
    with pytest.raises(UserError, match="excludes all parameters"):
        initialise(params(0), params(1), exclude=("**",))
    source = {**params(1), "extra": jnp.zeros(2)}
    with pytest.raises(UserError, match="parameter extra is not in this model"):
        initialise(params(0), source)
    head = {**params(1), "head": {"bias": jnp.zeros(2)}, "transform": {"bias": jnp.zeros(2)}}
    with pytest.raises(
        UserError,
        match=r"head/\*\*, transform/\*\* are not in this model.*\(--start-from.exclude decoder head transform\)",
    ):
        initialise(params(0), head, exclude=("decoder",))
    assert initialise(params(0), head, exclude=("head", "transform")).fresh == ()
