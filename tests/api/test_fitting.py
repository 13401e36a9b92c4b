"""Texts over which attention would take more memory than there is."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from t2t import memory
from t2t.api.fitting import rows_that_fit
from t2t.api.recipes import quickstart_t5
from t2t.decode import TooLong
from t2t.nn.attention.config import LOGIT_BYTES
from t2t.types import Batch, Tokens
from t2t.vocabularies import Bytes

HEADS = 4


def run(**changes):
    model = replace(quickstart_t5().model, **changes)
    return SimpleNamespace(experiment=SimpleNamespace(model=model), vocabulary=Bytes())


@pytest.fixture
def room(monkeypatch):
    """Let there be memory for one text of so many tokens."""

    def leave(tokens):
        monkeypatch.setattr(memory, "available", lambda: None if tokens is None else LOGIT_BYTES * HEADS * tokens**2)

    return leave


def rows(*lengths):
    return [{"inputs": "a" * length} for length in lengths]


def name(i):
    return f"in.txt:{i + 1}"


def test_a_text_that_does_not_fit_is_named_with_what_does(room):
    room(1024)
    with pytest.raises(TooLong, match=r"in.txt:2 has about 1,504 tokens.*The maximum is 1,024 tokens") as told:
        rows_that_fit(run(), rows(10, 1500, 3), 8, name)
    assert told.value.sizes == {1: (1504, 1024)}


def test_of_texts_that_fit_alone_as_many_are_computed_as_fit(room):
    room(1024)
    assert rows_that_fit(run(), rows(1000, 10), 8, name) == 1
    assert rows_that_fit(run(), rows(500, 10), 8, name) == 4
    assert rows_that_fit(run(), rows(250, 10), 8, name) == 8
    assert rows_that_fit(run(), rows(10, 20), 8, name) == 8


def test_where_memory_is_unknown_or_attention_takes_little_all_goes_on(room):
    room(None)
    assert rows_that_fit(run(), rows(100_000), 8, name) == 8
    room(1024)
    assert rows_that_fit(run(attention="chunked"), rows(100_000), 8, name) == 8


def test_the_second_text_of_a_pair_counts(room):
    room(1024)
    with pytest.raises(TooLong):
        rows_that_fit(run(), [{"inputs": "a" * 600, "second": "b" * 600}], 8, name)


def test_the_estimate_is_near_what_the_compiler_says():
    model, length = quickstart_t5().model.portable().build(), 2048
    whole, one = (jax.ShapeDtypeStruct((1, size), jnp.int32) for size in (length, 1))
    batch = Batch(
        encoder=Tokens(ids=whole, positions=whole, segments=whole, prefix=None),
        decoder=Tokens(ids=one, positions=one, segments=one, prefix=None),
        targets=None,
        weights=None,
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    compiled = jax.jit(lambda p, b: model.start(p, b, 16)).lower(params, batch).compile()
    estimate = LOGIT_BYTES * HEADS * length**2
    assert 0.7 * estimate < compiled.memory_analysis().temp_size_in_bytes < 1.3 * estimate
