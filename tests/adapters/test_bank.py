"""Rows of one batch with different adapters get what each adapter computes alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.adapters import Adapter
from t2t.adapters.bank import attach_bank, side_by_side
from t2t.api.mixing import chosen_in, with_adapters
from t2t.decode import Beam, Greedy, Sampling, generate
from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.nn.adapters import ADAPTERS
from tests.adapters.test_lora import adapted
from tests.models.tiny import config, params_of, quick_jit, some_batch

FIRST = Adapter(rank=4, alpha=6.0, targets=("**/layers/**",))
SECOND = Adapter(rank=3, rank_stabilized=True, targets=("**/{query,value}",))
NUMBERS = np.array([1, -1, 0, 1], np.int32)


def models(name, format="none"):
    """Return the model of both adapters, the models of the first, of the second, and of none, each with its parameters."""
    base, plain = params_of(config(name))
    alone = [adapted(config(name), one)[:2] for one in (FIRST, SECOND)]
    bank = base.adapted(partial(attach_bank, adapters=(FIRST, SECOND)))
    both = flatten(plain) | flatten(side_by_side((FIRST, SECOND), [params for _, params in alone]))
    every = [(bank, unflatten(both)), *alone, (base, plain)]
    made = [(model.quantized(format), params) for model, params in every]
    return [(model, model.compressed(params)) for model, params in made]


def one_row(batch, i):
    return jax.tree.map(lambda x: x[i : i + 1], batch)


@pytest.mark.parametrize(
    ("name", "format"),
    [("gpt", "none"), *(pytest.param(name, "nf4", marks=pytest.mark.slow) for name in ("t5", "llama"))],
)
def test_the_prompt_and_the_steps_of_each_row_are_those_of_its_adapter(name, format):
    (bank, both), *alone = models(name, format)
    batch = some_batch(config(name).kind, count=4, length=4)

    def logits(model, params, batch):
        first, cache = model.start(params, batch, 8)
        ids = jnp.full(first.shape[:1], 7)
        return jnp.stack([first, model.step(params, cache, ids)[0], model.stepper(params)(cache, ids)[0]])

    found = quick_jit(partial(logits, bank))(both, replace(batch, extra={ADAPTERS: NUMBERS}))
    for (model, params), number in zip(alone, (0, 1, -1), strict=True):
        wanted = quick_jit(partial(logits, model))(params, batch)
        rows = np.flatnonzero(number == NUMBERS)
        np.testing.assert_allclose(found[:, rows], wanted[:, rows], atol=1e-5 * np.abs(wanted).max())
        other = np.flatnonzero(number != NUMBERS)
        assert np.abs(found[:, other] - wanted[:, other]).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt", "t5"])
@pytest.mark.parametrize("decoding", [Greedy(), Beam(size=3), Sampling(samples=2)], ids=lambda one: type(one).__name__)
def test_generated_rows_are_those_of_each_adapter(name, decoding):
    (bank, both), *alone = models(name)
    batch = some_batch(config(name).kind, count=4, length=4)
    keys = jax.random.split(jax.random.key(0), 4) if isinstance(decoding, Sampling) else None
    found = generate(bank, both, replace(batch, extra={ADAPTERS: NUMBERS}), decoding, length=6, eos_id=0, key=keys)
    for (model, params), number in zip(alone, (0, 1, -1), strict=True):
        wanted = generate(model, params, batch, decoding, length=6, eos_id=0, key=keys)
        for row in np.flatnonzero(number == NUMBERS):
            np.testing.assert_array_equal(found.ids[row], wanted.ids[row])
            np.testing.assert_allclose(found.scores[row], wanted.scores[row], atol=1e-4)


def test_each_text_says_which_adapter_it_uses():
    rows = [{"inputs": "one"}, {"inputs": "two", "adapter": None}, {"inputs": "three", "adapter": "b"}]
    assert [row["adapter"] for row in chosen_in(rows[:2], ("a",), str)] == ["a", None]
    assert [row["adapter"] for row in with_adapters(rows[:2], ["a", None])] == ["a", None]
    for given, wrong in (
        (("a", "b"), r"0: --adapter is given 2 times, and the row has no field 'adapter'. Nearest: \"adapter\": 'a'"),
        (("bb",), r"2: the field 'adapter' is 'b', which --adapter does not name. Nearest: bb"),
    ):
        with pytest.raises(UserError, match=wrong):
            chosen_in(rows, given, str)
    with pytest.raises(UserError, match="3 texts and 1 adapters"):
        with_adapters(rows, ["a"])
    with pytest.raises(UserError, match=r"adapters is one path. Nearest: a list"):
        with_adapters(rows, "abc")
