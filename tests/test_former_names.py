"""Python names of version 0.1.0 lead to what they are called now."""

import importlib

import jax
import numpy as np
import pytest

from t2t import former_names
from t2t.objectives import CrossEntropy
from t2t.train.run import SavedRun
from tests.models.tiny import config
from tests.train.test_step import batch


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in former_names.NAMES.items() for n in names])
def test_former_names_are_found_and_no_others(module, name):
    found = getattr(importlib.import_module(module), name)
    place, _, attribute = former_names.NAMES[module][name].rpartition(".")
    assert found is getattr(importlib.import_module(place), attribute)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = importlib.import_module(module).Nothing


def test_code_of_the_first_version_computes_the_same():
    from t2t.losses import Loss  # type: ignore[attr-defined]
    from t2t.train.run import Run  # type: ignore[attr-defined]

    assert Run is SavedRun
    model = config("gpt").build()
    params, rows = model.init(jax.random.key(0)), batch("decoder")
    now = CrossEntropy(z_loss=1e-2).loss(model, params, rows)
    np.testing.assert_array_equal(model.losses(params, rows, Loss(z_loss=1e-2)).objective, now.objective)
