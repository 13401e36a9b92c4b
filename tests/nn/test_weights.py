"""Quantized kernels: codes and scales of bitsandbytes, rounding, products and their gradients."""

from __future__ import annotations

import base64
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.nn.initializers import Normal
from t2t.nn.linear import Linear
from t2t.nn.parameters import Definition, put, stack
from t2t.nn.weights import FORMATS, QuantizedKernel, checked_format, dequantized, quantized
from t2t.nn.weights.nf4 import DYNAMIC_LEVELS
from tests.nn import golden_weights

NEAREST = [format for format in FORMATS if format != "ternary"]
"""The formats that round each value to the nearest one."""


@functools.cache
def kernel(inputs, outputs, layers=None):
    shape = (inputs, outputs) if layers is None else (layers, inputs, outputs)
    return jnp.asarray(np.random.default_rng(inputs).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("shape", golden_weights.SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_codes_and_scales_are_those_of_bitsandbytes(shape):
    golden = golden_weights.read()["x".join(map(str, shape))]
    weight = golden_weights.weight(*shape)
    parts = quantized("nf4", weight.T)
    assert golden_weights.digest(np.asarray(parts["codes"])) == golden["codes"]
    stored = np.frombuffer(base64.b64decode(golden["scales"]), np.uint8).reshape(parts["scales"].shape)
    # Its lookup of scales on CPUs is not exact: some are not the nearest level, but one or two beside it.
    differences = np.abs(np.asarray(parts["scales"], int) - stored)
    assert differences.max() <= 2
    assert differences.mean() < 0.03
    np.testing.assert_allclose(parts["scale_scales"], golden["scale_scales"], rtol=1e-6)
    assert float(parts["scale_mean"]) == pytest.approx(golden["scale_mean"], rel=1e-6)
    back = np.asarray(dequantized("nf4", parts, shape[1])).T.reshape(-1)[::97]
    same = np.repeat(differences == 0, 64, axis=1).reshape(-1)[::97]
    np.testing.assert_allclose(back[same], np.asarray(golden["dequantized"])[same], atol=1e-6)
    integers = quantized("int8", weight.T)
    assert golden_weights.digest(np.asarray(integers["codes"])) == golden["int8_codes"]
    np.testing.assert_allclose(127 * integers["scales"][:, 0], golden["int8_largest"], rtol=1e-6)


def test_the_levels_of_scales_are_those_of_bitsandbytes():
    np.testing.assert_array_equal(DYNAMIC_LEVELS, np.asarray(golden_weights.read()["dynamic_levels"], np.float32))


@pytest.mark.parametrize(
    "format",
    [
        name if name in ("int8", "int4_groups", "nf4") else pytest.param(name, marks=pytest.mark.slow)
        for name in NEAREST
    ],
)
def test_each_value_is_rounded_to_the_nearest_one(format):
    """Sizes that no group and no byte divides; a stack is quantized layer by layer."""
    inputs, outputs = 71, 5
    both = kernel(inputs, outputs, 2)
    parts = quantized(format, both)
    back = np.asarray(dequantized(format, parts, inputs))
    assert back.shape == both.shape
    np.testing.assert_array_equal(back[1], dequantized(format, quantized(format, both[1]), inputs))
    largest = np.abs(both).max(axis=(0, 1))
    half_step = {"int8": 0.5 / 127, "int4": 0.5 / 7, "nf4": 0.155}[format.removesuffix("_groups")]
    assert (np.abs(back - both).max(axis=(0, 1)) <= half_step * largest * 1.02).all()
    again = dequantized(format, quantized(format, jnp.asarray(back)), inputs)
    np.testing.assert_allclose(again, back, atol=1e-6 if format != "nf4" else 0.02)
    zeros = jnp.zeros((inputs, outputs))
    np.testing.assert_array_equal(dequantized(format, quantized(format, zeros), inputs), zeros)


@pytest.mark.slow
def test_a_group_has_a_scale_of_its_own():
    """A single large value of an output spoils the whole output, or only its group."""
    spoiled = kernel(128, 4).at[3, :].set(1000.0)
    errors = {
        format: np.abs(np.asarray(dequantized(format, quantized(format, spoiled), 128) - spoiled))[64:].max()
        for format in NEAREST
        if format != "nf4"
    }
    assert errors["int8"] > 50 * errors["int8_groups"]
    assert errors["int4"] > 3 * errors["int4_groups"]


def test_bytes_of_a_value():
    """NF4 takes four bits, and 0.127 bits for its scales (Dettmers et al. 2023, section 3)."""
    sizes = {
        format: sum(
            math.prod(part.shape) * jnp.dtype(part.dtype).itemsize
            for part in stored.parts(512, 1024, (None, None)).values()
        )
        * 8
        / (512 * 1024)
        for format, stored in FORMATS.items()
    }
    assert sizes["nf4"] == pytest.approx(4.127, abs=1e-3)
    assert sizes == {
        "int8": pytest.approx(8 + 32 / 512),
        "int8_groups": 8.5,
        "int4": pytest.approx(4 + 32 / 512),
        "int4_groups": 4.5,
        "nf4": sizes["nf4"],
        "ternary": pytest.approx(2, abs=1e-3),
    }


def linear(format, inputs=70, outputs=6):
    """Return a layer with a quantized kernel, and its parameters."""
    layer = Linear(inputs, outputs, ("embed", "mlp"), bias=True, init=Normal(1.0))
    put(layer, "kernel", QuantizedKernel(format, inputs, outputs, ("embed", "mlp")))
    definition = Definition(layer)
    return definition, {"kernel": quantized(format, kernel(inputs, outputs)), "bias": jnp.arange(float(outputs))}


@pytest.mark.parametrize("format", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_products_and_gradients_are_those_of_the_dequantized_kernel(format):
    definition, params = linear(format)
    floats = dequantized(format, params["kernel"], 70)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 70)), jnp.float32)

    def loss(x, bias):
        return jnp.sum(definition.bind({**params, "bias": bias})(x) ** 3)

    found = jax.jit(jax.value_and_grad(loss, (0, 1)))(x, params["bias"])
    wanted = jax.value_and_grad(lambda x, bias: jnp.sum((x @ floats + bias) ** 3), (0, 1))(x, params["bias"])
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-2), found, wanted)


def test_the_gradient_keeps_codes_and_no_float_kernel():
    definition, params = linear("nf4", 128, 64)
    kept = jax.eval_shape(lambda x: jax.vjp(lambda x: definition.bind(params)(x), x)[1], jnp.ones((2, 128)))
    sizes = [leaf.size for leaf in jax.tree.leaves(kept) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert max(sizes, default=0) < 128 * 64 / 8


def test_parts_are_frozen_have_the_axes_of_the_kernel_and_stand_for_its_values():
    layer = Linear(64, 32, ("embed", "mlp"), bias=False, init=Normal(1.0))
    put(layer, "kernel", stack(QuantizedKernel("nf4", 64, 32, ("embed", "mlp")), 3))
    specs = Definition(layer).specs["kernel"]
    assert {name: spec.axes for name, spec in specs.items()} == {
        "codes": ("layers", "mlp", "embed"),
        "scales": ("layers", None, None),
        "scale_scales": ("layers", None),
        "scale_mean": ("layers",),
    }
    assert not any(spec.trainable or spec.decay for spec in specs.values())
    assert sum(spec.size for spec in specs.values()) == 3 * 64 * 32


def test_an_unknown_format_is_named():
    with pytest.raises(UserError, match=r"unknown format 'int3' \(--quantize\)\. Nearest: int"):
        checked_format("int3", option="--quantize")
