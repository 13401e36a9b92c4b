"""Rotary positions: what they keep, what they depend on, and the order of the rows."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.nn.rotary import Rotary, rotate, shuffled
from tests.nn.golden_rotary import CASES, FILE, HEAD

RANDOM = np.random.default_rng(0)
KINDS = [Rotary(), Rotary(base=500_000.0), Rotary(scaling="linear", factor=4.0)]
KINDS.append(Rotary(scaling="llama3", factor=8.0, original_length=32))


def products(rotary, positions):
    """Return q . k of every pair of positions, the same query and key everywhere."""
    q, k = (RANDOM.standard_normal((1, 1, 1, 8)).astype(np.float32) for _ in range(2))
    turns = rotary.angles(jnp.asarray(positions)[None], 8)
    turned = [rotate(jnp.broadcast_to(x, (1, len(positions), 1, 8)), turns) for x in (q, k)]
    return np.asarray(jnp.einsum("bqhd,bkhd->qk", *turned))


@pytest.mark.parametrize("rotary", KINDS)
def test_products_depend_on_distances_alone(rotary):
    RANDOM.bit_generator.state = np.random.default_rng(3).bit_generator.state
    near = products(rotary, np.arange(6))
    RANDOM.bit_generator.state = np.random.default_rng(3).bit_generator.state
    far = products(rotary, np.arange(6) + 50)
    np.testing.assert_allclose(near, far, atol=1e-4)
    for offset in range(-5, 6):
        diagonal = np.diagonal(near, offset)
        np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)


def test_lengths_are_kept_and_position_0_changes_nothing():
    x = RANDOM.standard_normal((2, 5, 3, 8)).astype(np.float32)
    turned = np.asarray(rotate(x, Rotary().angles(np.tile(np.arange(5), (2, 1)), 8)))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(turned[:, 0], x[:, 0], rtol=1e-6)
    assert not np.allclose(turned[:, 1], x[:, 1])


def test_llama3_slows_only_the_slow():
    plain, scaled = Rotary(base=500_000.0), Rotary(base=500_000.0, scaling="llama3", factor=8.0, original_length=8192)
    share = scaled.frequencies(64) / plain.frequencies(64)
    turns = 8192 * plain.frequencies(64) / (2 * np.pi)
    np.testing.assert_allclose(share[turns > 4], 1.0)
    np.testing.assert_allclose(share[turns < 1], 1 / 8)
    assert np.all(np.diff(share) <= 1e-6)


def test_neighbours_become_halves_and_go_back():
    kernel = RANDOM.standard_normal((12, 5))
    halves = shuffled(kernel, 3, to_halves=True)
    # head 0 has rows 0 to 3: pairs (0, 1) and (2, 3) become (0, 2) and (1, 3)
    np.testing.assert_array_equal(halves[:4], kernel[[0, 2, 1, 3]])
    np.testing.assert_array_equal(shuffled(halves, 3, to_halves=False), kernel)


OURS = {
    "partial_rotary_factor": "share",
    "factor": "factor",
    "low_freq_factor": "low",
    "high_freq_factor": "high",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "attention_factor": "attention_factor",
    "short_factor": "short_factors",
    "long_factor": "long_factors",
}
GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def ours(given):
    """Return the rotary positions that rope_parameters of transformers describe; the positions of training are 64."""
    values = {OURS[name]: value for name, value in given.items() if name in OURS}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    kind = "none" if given["rope_type"] == "default" else given["rope_type"]
    return Rotary(scaling=kind, original_length=64, **values)


@pytest.mark.parametrize("name", CASES)
def test_frequencies_and_factors_are_those_of_transformers(name):
    given, length = CASES[name]
    rotary, wanted = ours(given), GOLDEN[name]
    np.testing.assert_allclose(rotary.frequencies(HEAD, length), wanted["frequencies"], rtol=2e-6)
    assert rotary.magnitude == pytest.approx(wanted["factor"], rel=1e-12)
    positions = jnp.arange(length or 40)[None]
    cos, sin = rotary.angles(positions, HEAD)
    angles = np.arange(length or 40)[:, None] * np.asarray(wanted["frequencies"])
    np.testing.assert_allclose(cos[0], np.cos(angles) * wanted["factor"], atol=1e-4)
    np.testing.assert_allclose(sin[0], np.sin(angles) * wanted["factor"], atol=1e-4)


def test_the_rest_of_a_head_stays_as_it_is_where_a_part_of_it_turns():
    x = RANDOM.standard_normal((1, 5, 2, 8)).astype(np.float32)
    positions = np.arange(5)[None]
    turned = np.asarray(rotate(x, Rotary(share=0.5).angles(positions, 8)))
    np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
    np.testing.assert_allclose(turned[..., :4], rotate(x[..., :4], Rotary().angles(positions, 4)), rtol=1e-6)
    assert not np.allclose(turned[:, 1:, :, :4], x[:, 1:, :, :4])


@pytest.mark.parametrize(
    ("fields", "size", "said"),
    [
        ({"share": 0.5}, 6, "share 0.5 of model.head_dim 6 is 3 coordinates.*Nearest: 1.0"),
        ({}, 7, "head_dim is 7; rotary positions need an even one"),
        ({"scaling": "longrope", "long_factors": (1.0,) * 4}, 8, r"short_factors has 0 numbers.*Nearest: 4"),
    ],
)
def test_heads_that_cannot_turn_so_are_refused(fields, size, said):
    with pytest.raises(UserError, match=said):
        Rotary(**fields).rotated_size(size)


def test_impossible_scalings_are_refused():
    with pytest.raises(UserError, match="must be less than"):
        Rotary(scaling="llama3", low=4.0, high=4.0)
    with pytest.raises(UserError, match=r"attention_factor is 2.0, but .*Nearest: yarn, longrope"):
        Rotary(attention_factor=2.0)
    with pytest.raises(UserError, match=r"factor 0.5 .* is not a number from 1 to"):
        Rotary(scaling="linear", factor=0.5)
