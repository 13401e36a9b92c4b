"""Whole steps with each backend of attention, traced for devices that are not there and compiled where their compiler is installed."""

import jax
import pytest

from t2t.errors import UserError
from t2t.plan.compile import compile_step
from t2t.plan.plan import estimate_plan, prepare
from t2t.plan.topology import Topology, missing
from t2t.sharding import MeshConfig
from tests.plan.experiments import decoder, encoder_decoder

TPUS, GPUS = Topology.parse("v5e:2x2"), Topology.parse("h100:1x4")
LENGTH = 384
"""No other size of the models."""
SIZES = {"d_model": 256, "num_heads": 4, "d_ff": 512, "vocab_size": 128, "length": LENGTH, "attention_block": 128}
ROWS_AND_HEADS = MeshConfig(data=1, fsdp=2, tensor=2)


def compiled(topology, experiment):
    """Return the instructions of a step's program, without those inside of fusions, whose results are never in memory."""
    why = missing(topology.kind)
    if why:
        pytest.skip(why)
    made = compile_step(prepare(experiment, topology, topology.devices()))
    return [item for region in made.hlo.regions for item in made.hlo.computations[region.name]]


def square(instructions):
    """Return the sizes of arrays that have two axes of the length."""
    return {shape.sizes for item in instructions for shape in item.shapes if shape.sizes.count(LENGTH) > 1}


def kernels(instructions):
    """Return the names of the program's kernels."""
    return [item.name for item in instructions if item.opcode == "custom-call" and "tpu_custom_call" in item.rest]


def test_splash_on_tpus_has_no_array_of_queries_by_keys_and_einsum_has():
    settings = {"mesh": ROWS_AND_HEADS, "dtype": "bfloat16", **SIZES}
    own = compiled(TPUS, decoder(attention="splash", remat="full", **settings))
    assert not square(own)
    found = " ".join(kernels(own))
    for name in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
        assert name in found
    assert square(compiled(TPUS, decoder(attention="einsum", **settings)))


@pytest.mark.parametrize("changes", [{"window": 64}, {"mask": "prefix", "num_kv_heads": 2}])
def test_splash_on_tpus_takes_windows_prefixes_and_grouped_heads(changes):
    assert kernels(compiled(TPUS, decoder(mesh=ROWS_AND_HEADS, attention="splash", **changes, **SIZES)))


def test_relative_positions_on_tpus():
    # Rows of 2 devices each: a bias for each row would be one more axis.
    settings = {"mesh": ROWS_AND_HEADS, "dtype": "bfloat16", **SIZES}
    own = compiled(TPUS, encoder_decoder(attention="flash", **settings))
    assert len(kernels(own)) >= 9  # three passes of encoder, decoder and cross attention
    heads = {(1, 2, LENGTH, LENGTH), (2, LENGTH, LENGTH), (LENGTH, LENGTH), (1, 1, 2, LENGTH, LENGTH)}
    assert square(own) <= heads
    assert not square(compiled(TPUS, encoder_decoder(attention="chunked", **settings)))


def test_chunked_on_gpus_has_no_array_of_queries_by_keys():
    assert not square(
        compiled(GPUS, encoder_decoder(attention="chunked", dtype="bfloat16", mesh=ROWS_AND_HEADS, **SIZES))
    )


def test_a_kernel_is_planned_without_its_device_and_for_no_other():
    settings = {"num_layers": 2, "mesh": ROWS_AND_HEADS, "attention_block": 128, "length": 256}
    four = jax.devices()[:4]
    splash = prepare(decoder(attention="splash", **settings), TPUS, four)
    einsum = prepare(decoder(**settings), TPUS, four)
    made, plain = estimate_plan(splash, TPUS), estimate_plan(einsum, TPUS)
    assert made.flops.model == plain.flops.model
    # The kernels compute the logits again in the backward pass, twice, and their gradient once more; and outputs times their gradient.
    product = 2 * 8 * 256**2 * 64 * 2  # layers, rows, logits, width, multiply-adds
    assert made.flops.total - plain.flops.total == 3 * product + product / 256
    assert made.memory.activations < plain.memory.activations
    with pytest.raises(UserError, match="runs on TPUs, not on gpu"):
        estimate_plan(splash, GPUS)
