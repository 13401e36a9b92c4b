"""Runs of models with experts whose biases balance the load."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from t2t.checkpoint import CheckpointConfig, Checkpoints
from t2t.errors import UserError
from t2t.models import deepseek
from t2t.nn.attention.latent import Latent
from t2t.nn.moe.router import Router
from t2t.sharding import MeshConfig
from t2t.train.experiment import check
from t2t.train.program import Program
from tests.train.test_frozen_runs import run
from tests.train.test_guard import TINY as BASE

MODEL = deepseek.deepseek(
    num_layers=3,
    d_model=16,
    num_heads=2,
    d_ff=24,
    head_dim=6,
    vocab_size=384,
    dense_layers=1,
    num_experts=4,
    experts_per_token=2,
    expert_d_ff=12,
    shared_expert_d_ff=8,
    latent=Latent(rank=8, query_rank=10, rotary_dim=4),
    router=Router(scores="sigmoid", groups=2, groups_per_token=1, bias_rate=0.01, balance_loss=0.0),
)
TINY = replace(
    BASE,
    model=MODEL,
    mesh=MeshConfig(data=2, expert=4),
    # An odd number: a bias that goes back and forth is not 0 at the end.
    steps=5,
    microbatches=1,
    checkpoint=CheckpointConfig(every=3),
)


def state_of(directory, step):
    own = Program.of(TINY, TINY.mesh.build())
    with Checkpoints(directory / "checkpoints") as checkpoints:
        return checkpoints.restore(step, own.abstract_state())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh": MeshConfig(data=1, expert=8)}, r"mesh.expert is 8 \(--mesh.expert\).* the 4 experts .*Nearest: 4\."),
        ({"model": BASE.model}, r"mesh.expert is 4 .*no layer of the model has experts.*Nearest: 1\."),
    ],
)
def test_an_axis_that_does_not_divide_the_experts_is_refused_before_the_training(changes, message):
    with pytest.raises(UserError, match=message):
        check(replace(TINY, **changes), 8)


@pytest.mark.slow
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path):
    run(tmp_path / "whole", TINY)
    run(tmp_path / "halves", replace(TINY, steps=3))
    run(tmp_path / "halves", TINY)
    whole, halves = (state_of(tmp_path / name, 5) for name in ("whole", "halves"))
    for one, other in zip(jax.tree.leaves(whole.params), jax.tree.leaves(halves.params), strict=True):
        np.testing.assert_array_equal(one, other)
    bias = np.asarray(whole.params["decoder"]["layers"]["moe"]["bias"])
    assert bias.min() < 0 < bias.max()  # experts with more than the mean load, and with less
    np.testing.assert_allclose(bias / 0.01, np.round(bias / 0.01), atol=1e-3)
