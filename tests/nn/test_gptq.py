"""GPTQ equals the paper's update of one input after the other, and its outputs have smaller errors than rounding to the nearest."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from t2t.nn.linear_inputs import LinearInputs, of_memory, recorded, recorder
from t2t.nn.weights import dequantized, quantized
from t2t.nn.weights.gptq import CALIBRATED, calibrated, output_error

INPUTS, OUTPUTS, GROUP = 80, 6, 64


def layer():
    """Return a kernel and the sum of x x^T over inputs x that depend on each other."""
    random = np.random.default_rng(0)
    x = random.normal(size=(200, INPUTS)) @ random.normal(size=(INPUTS, INPUTS))
    return random.normal(size=(INPUTS, OUTPUTS)).astype(np.float32), (x.T @ x).astype(np.float32)


def plain(kernel, gram, *, largest, per_group, ordered):
    """Return the quantized kernel by equations 2 and 3 of the paper, with H^-1 after each input by Gaussian elimination, in float64."""
    weight, gram = kernel.astype(np.float64), gram.astype(np.float64)
    inverse = np.linalg.inv(gram + 0.01 * np.mean(np.diag(gram)) * np.eye(INPUTS))
    size = GROUP if per_group else INPUTS
    first = weight.copy()
    for place in np.argsort(-np.diag(gram), kind="stable") if ordered else range(INPUTS):
        group = slice(place // size * size, place // size * size + size)
        if place % size == 0 and per_group and not ordered:
            first[group] = weight[group]
        scale = np.abs(first[group]).max(axis=0) / largest
        value = np.clip(np.round(weight[place] / scale), -largest, largest) * scale
        spread = inverse[:, place] / inverse[place, place]
        weight -= spread[:, None] * (weight[place] - value)
        weight[place] = value
        inverse -= np.outer(spread, inverse[place])
    return weight


@pytest.mark.parametrize(
    ("format", "ordered"),
    [
        ("int4_groups", False),
        pytest.param("int4_groups", True, marks=pytest.mark.slow),
        pytest.param("int4", False, marks=pytest.mark.slow),
        pytest.param("int8", True, marks=pytest.mark.slow),
        pytest.param("int8_groups", False, marks=pytest.mark.slow),
    ],
)
def test_the_kernel_is_that_of_the_paper(format, ordered):
    kernel, gram = layer()
    parts = calibrated(format, kernel, gram, ordered=ordered)
    nearest = quantized(format, kernel)
    assert {name: (part.shape, part.dtype) for name, part in parts.items()} == {
        name: (part.shape, part.dtype) for name, part in nearest.items()
    }
    found, rounded = (np.asarray(dequantized(format, one, INPUTS)) for one in (parts, nearest))
    per_group, largest = format.endswith("groups"), 7 if "int4" in format else 127
    wanted = plain(kernel, gram, largest=largest, per_group=per_group, ordered=ordered)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    error, before = (float(output_error(kernel, one, gram)) for one in (found, rounded))
    assert error < 0.6 * before
    outputs = np.sum(kernel * (gram @ kernel))
    assert error == pytest.approx(np.sum((found - kernel) * (gram @ (found - kernel))) / outputs, rel=1e-3)


@pytest.mark.slow
def test_without_inputs_values_are_rounded_to_the_nearest():
    kernel, _ = layer()
    parts, nearest = calibrated("int8", kernel, jnp.zeros((INPUTS, INPUTS))), quantized("int8", kernel)
    for name, part in nearest.items():
        np.testing.assert_array_equal(parts[name], part)
    assert CALIBRATED == ("int8", "int8_groups", "int4", "int4_groups")


def test_the_sums_leave_padding_out():
    x, memory = (np.arange(12.0).reshape(1, 3, 4) + start for start in (0, 20))
    own, other, unknown = object(), object(), object()
    inputs = LinearInputs({id(own): "own", id(other): "other"}, np.array([[1, 2, 0]]), np.array([[0, 1, 1]]))
    assert recorder() is None
    with recorded(inputs):
        found = recorder()
        found.add(own, x)
        found.add(own, x)
        found.add(unknown, x)
        with of_memory():
            found.add(other, memory)
    np.testing.assert_allclose(inputs.sums["own"], 2 * x[0, :2].T @ x[0, :2])
    np.testing.assert_allclose(inputs.sums["other"], memory[0, 1:].T @ memory[0, 1:])
    assert inputs.sums.keys() == {"own", "other"}
