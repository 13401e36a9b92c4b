"""LoRA of the linear layers of recurrent mixers."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from t2t.decode import Greedy, generate
from t2t.export.directory import flatten
from t2t.models.config import LayerOptions
from t2t.nn.recurrent.mamba import MambaConfig
from tests.adapters.test_lora import EVERYWHERE, adapted
from tests.models.test_linear_mixers import MIXERS, settings
from tests.models.test_rwkv import MODELS
from tests.models.tiny import config, quick_jit, some_batch

DECODERS = {
    # With a rank of 1, XLA merges the product of the time steps, now a multiplication, with the sum that follows.
    "Mamba": config("llama", pattern=(LayerOptions(mixer=MambaConfig(inner=32, state_size=6, dt_rank=2, chunk=4)),)),
    "Mamba-2": config("mamba2"),
    **{name: settings(name) for name in MIXERS},
    **MODELS,
}


@pytest.mark.parametrize(
    "name", [name if name in ("Mamba-2", "delta") else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS]
)
def test_merged_is_unmerged_in_whole_rows_and_in_steps(name):
    adapter = replace(EVERYWHERE, rank=1, alpha=1.0)  # the ranks of some products are small
    model, params, plain = adapted(DECODERS[name], adapter)
    targets = {path.split("/adapter/")[0] for path in flatten(params) if "/adapter/" in path}
    assert len(targets) >= 3
    base, merged = DECODERS[name].build(), model.merged(params)
    batch = some_batch("decoder", length=6)
    one, other, before = (
        np.asarray(quick_jit(m.logits)(p, batch)) for m, p in ((model, params), (base, merged), (base, plain))
    )
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())
    assert np.abs(one - before).max() > 0.01
    made = [generate(m, p, batch, Greedy(), length=8, eos_id=0) for m, p in ((model, params), (base, merged))]
    np.testing.assert_array_equal(made[0].ids, made[1].ids)
    np.testing.assert_allclose(made[0].scores, made[1].scores, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_at_the_start_the_logits_are_those_of_the_model_bit_for_bit(name):
    model, params, plain = adapted(DECODERS[name], replace(EVERYWHERE, rank=1), drawn=False)
    batch = some_batch("decoder", length=6)
    one, other = (
        np.asarray(jax.jit(m.logits)(p, batch)) for m, p in ((model, params), (DECODERS[name].build(), plain))
    )
    np.testing.assert_array_equal(one, other)
