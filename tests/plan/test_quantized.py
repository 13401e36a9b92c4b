"""What the accelerators' compilers make of products in eight bits. Skipped where they are not installed."""

import pytest

from t2t.plan.compile import compile_step
from t2t.plan.plan import prepare
from t2t.plan.topology import Topology, missing
from t2t.sharding import MeshConfig
from tests.plan.experiments import decoder

SIZES = {"num_layers": 2, "d_model": 256, "d_ff": 1024, "vocab_size": 512, "dtype": "bfloat16"}


def instructions(name, quantization):
    """Return the instructions of a step compiled for one chip, each with the types of its operands."""
    topology = Topology.parse(name)
    why = missing(topology.kind)
    if why:
        pytest.skip(why)
    experiment = decoder(mesh=MeshConfig(data=1), length=256, batch_size=8, quantization=quantization, **SIZES)
    compiled = compile_step(prepare(experiment, topology, topology.devices()[:1]))
    found = []
    for computation in compiled.hlo.computations.values():
        types = {instruction.name: instruction.shapes[0].dtype for instruction in computation if instruction.shapes}
        found += [(instruction, [types.get(name) for name in instruction.operands]) for instruction in computation]
    return found


def test_a_tpu_multiplies_int8():
    # A TPU's compiler writes matrix products as convolutions.
    products = [types for it, types in instructions("v5e:1x1", "int8") if it.opcode in ("convolution", "dot")]
    # Six kernels a block, forward and for the inputs' gradient; the loops over layers hold each once.
    assert products.count(["s8", "s8"]) == 12


def test_an_h100_multiplies_8_bit_floats():
    # In fusions whose products Triton generates: without the GPU no kernels are timed, and cuBLASLt's are not among those it takes.
    products = [types for it, types in instructions("h100:1x1", "fp8") if it.opcode == "dot"]
    assert products.count(["f8e4m3fn", "f8e4m3fn"]) >= 4
    assert sum(set(types) == {"f8e4m3fn", "f8e5m2"} for types in products) >= 8
