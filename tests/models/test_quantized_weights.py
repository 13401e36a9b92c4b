"""Models with quantized kernels compute what the same models with the dequantized kernels compute."""

from __future__ import annotations

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.adapters import Adapter
from t2t.decode import Greedy, generate
from t2t.errors import UserError
from t2t.export.directory import flatten, unflatten
from t2t.optim import Trainable
from t2t.optim.paths import flatten_specs, path_name
from t2t.sharding import MeshConfig
from t2t.train.experiment import StartFrom, check
from t2t.train.program import Program
from tests.models.tiny import config, params_of, quick_jit, some_batch
from tests.train.test_frozen import experiment, steps
from tests.train.test_step import close

LORA = Adapter(rank=2, targets=("**/layers/**",))


@functools.cache
def quantized(model_config, format):
    """Return the model with quantized kernels, its parameters, and those of the same kernels as floats."""
    base, params = params_of(model_config)
    model = base.quantized(format)
    compressed = quick_jit(model.compressed)(params)
    return model, compressed, quick_jit(model.expanded)(compressed)


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("gpt", "nf4"),
        pytest.param("t5", "int8", marks=pytest.mark.slow),
        pytest.param("bert", "int4_groups", marks=pytest.mark.slow),
        pytest.param("deberta", "nf4", marks=pytest.mark.slow),
        pytest.param("llama", "int4", marks=pytest.mark.slow),
        pytest.param("t5-shared", "int8_groups", marks=pytest.mark.slow),
        pytest.param("merged", "nf4", marks=pytest.mark.slow),
    ],
)
def test_logits_are_those_of_the_dequantized_kernels(name, format):
    model, params, floats = quantized(config(name), format)
    base, before = params_of(config(name))
    batch = some_batch(base.config.kind)
    one, other, plain = (
        np.asarray(quick_jit(m.logits)(p, batch)) for m, p in ((model, params), (base, floats), (base, before))
    )
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(other).max())
    assert 0 < np.abs(one - plain).max() < 0.5 * np.abs(plain).max()
    assert flatten(floats).keys() == flatten(before).keys()
    jax.tree.map(np.testing.assert_array_equal, flatten(model.merged(params)), flatten(floats))


@pytest.mark.parametrize("name", ["gpt", pytest.param("t5", marks=pytest.mark.slow)])
def test_steps_of_decoding_are_those_of_the_dequantized_kernels(name):
    model, params, floats = quantized(config(name), "nf4")
    batch = some_batch(model.config.kind, length=4)
    found, wanted = (
        generate(one, values, batch, Greedy(), length=6, eos_id=0)
        for one, values in ((model.rebuilt(model.config), params), (params_of(config(name))[0], floats))
    )
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)


def test_only_kernels_in_stacks_of_layers_are_quantized():
    model = config("t5").build().quantized("nf4")
    floats = {path for path in flatten_specs(model.float_specs) if path.endswith("kernel")}
    assert model.quantized_kernels == {path for path in floats if "/layers/" in path}
    assert "lm_head/kernel" in floats
    some = config("t5").build().quantized("int8", lambda path: "encoder" in path)
    assert some.quantized_kernels == {path for path in model.quantized_kernels if path.startswith("encoder")}


def test_only_the_adapter_beside_quantized_kernels_is_trained():
    trainable = Trainable(quantize="nf4", frozen_dtype="bfloat16")
    before, state, told = steps(replace(experiment("decoder", trainable), adapter=LORA))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        name = path_name(path)
        old = functools.reduce(lambda tree, key: tree[key.key], path, before)
        assert np.array_equal(leaf, old) == ("/adapter/" not in name), name
        if "/kernel/" in name:
            assert leaf.dtype == (
                jnp.uint8 if name.endswith(("codes", "scales")) and "scale_" not in name else jnp.float32
            )
        else:
            assert leaf.dtype == (jnp.float32 if "/adapter/" in name else jnp.bfloat16), name
    assert told[-1]["loss"] < told[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "format", "mesh"),
    [
        ("decoder", "nf4", MeshConfig(data=2, fsdp=2, tensor=2)),
        ("encoder_decoder", "int8", MeshConfig(data=1, fsdp=2, context=2, tensor=2)),
    ],
)
def test_sharded_equals_unsharded(kind, format, mesh):
    wanted = replace(experiment(kind, Trainable(quantize=format)), adapter=LORA)
    _, one, told = steps(wanted)
    _, other, sharded = steps(wanted, mesh=mesh)
    for single, divided in zip(told, sharded, strict=True):
        assert {k: float(v) for k, v in single.items()} == pytest.approx(
            {k: float(v) for k, v in divided.items()}, rel=1e-4
        )
    close(jax.device_get(one.params), other.params)


@pytest.mark.slow
def test_at_most_one_layer_is_dequantized():
    """The temporaries of a step hardly grow with the depth, forward and backward, and in decoding."""
    sizes = {"d_model": 128, "d_ff": 256, "num_heads": 2, "vocab_size": 32}
    layer = 4 * (4 * 128 * 128 + 2 * 128 * 256)

    def temporaries(depth):
        model = LORA.applied(config("gpt", num_layers=depth, **sizes).build()).quantized("nf4")
        shapes = jax.tree.map(
            lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.dtype),
            model.specs,
            is_leaf=lambda leaf: hasattr(leaf, "axes"),
        )
        batch = some_batch("decoder", length=4)
        flat = {path: leaf for path, leaf in flatten(shapes).items() if "/adapter/" in path}

        def loss(adapter, shapes):
            return jnp.sum(model.logits(unflatten({**flatten(shapes), **adapter}), batch) ** 2)

        def decoded(params):
            return generate(model, params, batch, Greedy(), length=4, eos_id=0).ids

        return [
            quick_jit(function).lower(*given).compile().memory_analysis().temp_size_in_bytes
            for function, given in ((jax.grad(loss), (flat, shapes)), (decoded, (shapes,)))
        ]

    for few, many in zip(temporaries(2), temporaries(8), strict=True):
        assert many - few < 1.5 * layer, "the float kernels of six more layers are six times as much as those of one"


def test_a_plan_counts_codes():
    plain = experiment("decoder")
    program, quantized = (
        Program.of(one, MeshConfig(data=1).build(jax.devices()[:1]))
        for one in (
            replace(plain, adapter=LORA),
            replace(plain, adapter=LORA, trainable=Trainable(quantize="nf4")),
        )
    )
    assert program.counts() == quantized.counts()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"trainable": Trainable(quantize="nf4")},
            r"trainable.quantize nf4 .*no linear layer .* is frozen. Nearest: none",
        ),
        (
            {"trainable": Trainable(quantize="nf4"), "adapter": LORA, "start_from": StartFrom()},
            r"need a run to start from",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    changes = {"start_from": StartFrom(run="runs/other"), **changes}
    wanted = replace(experiment("decoder"), **changes)
    with pytest.raises(UserError, match=message):
        check(wanted, 8)


def test_the_kernels_of_experts_are_refused_with_the_option_that_asked_for_them():
    model = config("moe").build()
    line = r"^quantize 'nf4' \(%s\): .*experts cannot be quantized .*Nearest: none"
    with pytest.raises(UserError, match=line % "--quantize"):
        model.quantized("nf4")
    with pytest.raises(UserError, match=line % "--trainable.quantize"):
        Trainable(quantize="nf4", exclude=("decoder/**",)).quantized(model)
