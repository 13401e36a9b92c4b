"""Kernels that are calibrated on a batch, in models of each architecture."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.export.directory import flatten
from t2t.models.config import LayerOptions
from t2t.optim.paths import flatten_specs
from tests.models import test_electra
from tests.models.tiny import VOCAB, batch, config, params_of, quick_jit, row, rows, some_batch

pytestmark = pytest.mark.slow

PATTERN = {"num_layers": 4, "first": (LayerOptions(window=2),), "pattern": (LayerOptions(window=3), LayerOptions())}


def of_stack(name, **changes):
    """Return a model whose only stack has other options."""
    whole = config(name)
    side = whole.kind
    return replace(whole, **{side: replace(getattr(whole, side), **changes)})


CASES = {
    "decoder": lambda: config("gpt"),
    "encoder": lambda: config("bert"),
    "encoder-decoder": lambda: config("t5"),
    "shared": lambda: config("t5-shared"),
    "merged": lambda: config("merged"),
    "groups": lambda: of_stack("bert", groups=1),
    "pattern": lambda: of_stack("gpt", **PATTERN),
}


def calibrated(model_config, some, wanted=None, format="int4"):
    model = params_of(model_config)[0].quantized(format, wanted)
    return model, *model.calibrated(params_of(model_config)[1], some)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_nearer_to_those_of_the_floats(name):
    base, floats = params_of(CASES[name]())
    some = some_batch(base.config.kind, count=16, length=12)
    model, params, errors = calibrated(base.config, some)
    for path, spec in flatten_specs(model.specs).items():
        assert (flatten(params)[path].shape, flatten(params)[path].dtype) == (spec.shape, spec.dtype), path
    assert errors.keys() == model.quantized_kernels
    assert all(ours < nearest for layers in errors.values() for ours, nearest in layers)
    logits = quick_jit(model.logits)
    wanted = np.asarray(quick_jit(base.logits)(floats, some))
    ours, nearest = (
        np.square(np.asarray(logits(one, some)) - wanted).mean() for one in (params, model.compressed(floats))
    )
    assert ours < nearest


def test_packed_rows_are_unpacked_rows():
    random = np.random.default_rng(3)
    texts = [random.integers(1, VOCAB, length) for length in (3, 5, 4, 6)]
    pairs = [(texts[place], texts[-1 - place]) for place in range(4)]
    alone = [[pair] for pair in pairs]
    together = [pairs[:2], pairs[2:]]
    grams = []
    for divided in (alone, together):
        sides = [rows([row([pair[side] for pair in some], 12) for some in divided]) for side in (0, 1)]
        grams.append(calibrated(config("t5"), batch("encoder_decoder", *sides)))
    (_, one, errors), (_, other, packed) = grams
    for path, layers in errors.items():
        np.testing.assert_allclose(layers, packed[path], rtol=0.05, err_msg=path)
    same = [np.mean(np.asarray(a) == b) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True)]
    assert min(same) > 0.9


def test_later_layers_read_what_quantized_layers_write():
    whole, some = CASES["pattern"](), some_batch("decoder", count=8)
    first = lambda path: "/first/" in path  # noqa: E731
    _, at_once, _ = calibrated(whole, some)
    half, params, _ = calibrated(whole, some, first)
    rest = params_of(whole)[0].quantized("int4", lambda path: not first(path))
    after, _ = rest.calibrated(half.expanded(params), some)
    from_floats, _ = rest.calibrated(params_of(whole)[1], some)
    codes = [path for path in flatten(after) if path.endswith("codes")]
    assert codes
    for path in codes:
        np.testing.assert_array_equal(flatten(after)[path], flatten(at_once)[path], err_msg=path)
    assert any(np.any(flatten(from_floats)[path] != flatten(after)[path]) for path in codes)


def test_a_kernel_that_the_model_does_not_use_is_refused():
    with pytest.raises(
        UserError, match=r"encoder/layers/attention/key/kernel cannot be calibrated.*Nearest: --quantize"
    ):
        calibrated(test_electra.CONFIG, some_batch("encoder"))
