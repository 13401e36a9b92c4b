"""Muon against its algorithm written out in NumPy, and stacked layers against a list of layers."""

import dataclasses

import jax
import numpy as np
import pytest

from t2t.optim import AdamW, Constant, Muon
from t2t.optim.muon import is_matrix
from tests.optim.stacked_toy import STACKED, random_like, run, spec, unstack

RATE = Constant(peak=0.1)


def orthogonal(matrix, iterations):
    """The Newton-Schulz iteration of Jordan et al. 2024, in float64."""
    x = matrix / np.linalg.norm(matrix)
    if wide := x.shape[0] > x.shape[1]:
        x = x.T
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x.T if wide else x


@pytest.mark.parametrize("shape", [(8, 5), (5, 8)])
@pytest.mark.parametrize("update_rms", [0.2, None])
@pytest.mark.parametrize("nesterov", [True, False])
def test_equals_the_algorithm(shape, update_rms, nesterov):
    rng = np.random.default_rng(0)
    specs = {"w": spec(shape, "embed", "mlp")}
    config = Muon(schedule=RATE, clip_norm=None, weight_decay=0.3, update_rms=update_rms, nesterov=nesterov)
    x, gradients = rng.normal(size=shape).astype(np.float32), rng.normal(size=(4, *shape)).astype(np.float32)
    got, _ = run(config.build(specs), {"w": x}, [{"w": g} for g in gradients])
    mean = 0.0
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        mean = 0.95 * mean + 0.05 * g
        ahead = 0.95 * mean / (1 - 0.95 ** (t + 1)) + 0.05 * g / (1 - 0.95**t) if nesterov else mean
        largest = max(shape)
        factor = max(1, shape[1] / shape[0]) ** 0.5 if update_rms is None else update_rms * largest**0.5
        x = x - 0.1 * (factor * orthogonal(ahead, 5) + 0.3 * x)
    np.testing.assert_allclose(got["w"], x, rtol=2e-4, atol=2e-5)


def test_an_update_has_the_size_of_adamws_whatever_the_gradients_and_the_shape():
    specs = {"tall": spec((64, 16), "embed", "mlp"), "wide": spec((16, 64), "embed", "mlp")}
    rng = np.random.default_rng(1)
    params = {name: np.zeros(s.shape, np.float32) for name, s in specs.items()}
    for scale in (1e-6, 1e3):
        gradient = {name: np.float32(scale * rng.normal(size=s.shape)) for name, s in specs.items()}
        got, _ = run(Muon(schedule=Constant(peak=1.0), clip_norm=None).build(specs), params, [gradient])
        for name, update in got.items():
            assert 0.15 < np.sqrt(np.mean(np.square(update))) < 0.25, (name, scale)


def test_layers_of_a_stack_are_matrices_of_their_own():
    config = Muon(schedule=RATE, weight_decay=0.1)
    params, gradients = random_like(STACKED, 0), [random_like(STACKED, seed) for seed in (1, 2, 3)]
    stacked, _ = run(config.build(STACKED), params, gradients)
    listed, _ = run(
        config.build(unstack(STACKED, STACKED)), unstack(params, STACKED), [unstack(g, STACKED) for g in gradients]
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), unstack(stacked, STACKED), listed)


def test_what_is_no_matrix_has_adamws_update():
    assert {name: is_matrix(s) for name, s in STACKED["encoder"].items()} == {
        "query": True,
        "out": True,
        "mlp": True,
        "norm": False,
    }
    config = Muon(schedule=RATE, weight_decay=0.1, clip_norm=None)
    adamw = AdamW(schedule=RATE, b1=0.9, b2=0.95, weight_decay=0.1, clip_norm=None)
    params, gradients = random_like(STACKED, 0), [random_like(STACKED, seed) for seed in (1, 2)]
    ours, _ = run(config.build(STACKED), params, gradients)
    adams, _ = run(adamw.build(STACKED), params, gradients)
    for path in (("embedding",), ("encoder", "norm"), ("decoder", "norm")):
        got, want = ours, adams
        for key in path:
            got, want = got[key], want[key]
        np.testing.assert_allclose(got, want, rtol=1e-6)
    assert not np.allclose(ours["encoder"]["mlp"], adams["encoder"]["mlp"], rtol=1e-2)
    fewer, _ = run(dataclasses.replace(config, iterations=1).build(STACKED), params, gradients)
    assert not np.allclose(ours["decoder"]["mlp"], fewer["decoder"]["mlp"], rtol=1e-3)
