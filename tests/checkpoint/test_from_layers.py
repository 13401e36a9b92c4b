"""A model that starts from some layers of a deeper one has exactly these."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from t2t.checkpoint import params_of_layers
from t2t.errors import UserError
from t2t.models.config import LayerOptions
from t2t.optim.state_axes import abstract_params
from tests.models.tiny import config, params_of, quick_jit, some_batch


def silenced(params, layers):
    """Return stacked parameters whose `layers` add nothing to the residual stream."""
    keep = np.ones(params["attention"]["out"]["kernel"].shape[0], np.float32)
    keep[list(layers)] = 0.0

    def one(path, x):
        last = path[-2].key in ("out", "down")
        return x * keep.reshape(-1, *[1] * (x.ndim - 1)) if last else x

    return jax.tree_util.tree_map_with_path(one, params)


@pytest.mark.parametrize(("layers", "others"), [((0, 3), (1, 2)), ((), (1, 3))])
def test_the_logits_are_those_of_the_layers_that_are_taken(layers, others):
    model, params = params_of(config("gpt", num_layers=4))
    small = config("gpt", num_layers=2).build()
    expected = dict(params)
    expected["decoder"] = {**params["decoder"], "layers": silenced(params["decoder"]["layers"], others)}
    batch = some_batch("decoder")
    found = quick_jit(small.logits)(params_of_layers(params, abstract_params(small.specs), layers), batch)
    np.testing.assert_allclose(found, quick_jit(model.logits)(expected, batch), rtol=1e-4, atol=1e-4)


def test_layers_of_a_pattern_become_stacked_layers_and_back():
    pattern = (LayerOptions(window=3), LayerOptions())
    _, deep = params_of(config("llama", num_layers=5, pattern=pattern))
    flat, two = deep["decoder"], abstract_params(config("llama", num_layers=2).build().specs)
    found = params_of_layers(deep, two, (1, 4))
    places = (jax.tree.map(lambda x: x[0], flat["layers"]["1"]), flat["tail"]["0"])
    jax.tree.map(
        lambda one, first, last: np.testing.assert_array_equal(one, np.stack([first, last])),
        found["decoder"]["layers"],
        *places,
    )
    np.testing.assert_array_equal(found["embeddings"]["token"]["table"], deep["embeddings"]["token"]["table"])
    again = params_of_layers(found, abstract_params(config("llama", num_layers=3, pattern=pattern).build().specs))
    np.testing.assert_array_equal(jax.tree.leaves(again["decoder"]["tail"]["0"])[0], jax.tree.leaves(places[1])[0])


def test_layers_that_are_not_there_are_refused():
    _, params = params_of(config("t5", num_layers=4))
    want = abstract_params(config("t5", num_layers=2).build().specs)
    with pytest.raises(UserError, match=r"has 3 layers, but the \w+ has 2. Nearest: 2"):
        params_of_layers(params, want, (0, 1, 2))
    with pytest.raises(UserError, match=r"layers 0 4 .*has no layer 4, only 4 layers.*Nearest: 3"):
        params_of_layers(params, want, (0, 4))
