"""Layers with experts and state-space layers, lowered and compiled for accelerators that are not there."""

import re

import jax
import pytest

from benchmarks.layer import Layer
from t2t.nn.moe.layer import MoEConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.plan.topology import Topology, missing
from t2t.sharding import assume_platform

LAYERS = {"experts": MoEConfig(num_experts=8, inner=256), "Mamba-2": Mamba2Config(num_heads=4, head_dim=64)}
SHAPE = (256, 2, 512, "bfloat16")


@pytest.mark.slow
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_experts_are_ragged_products_on_accelerators(platform):
    layer = Layer(LAYERS["experts"], *SHAPE)
    with assume_platform(platform.replace("cuda", "gpu")):
        traced = jax.jit(layer.gradient).trace(*layer.abstract)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    # Three products, and the gradients of both operands of each.
    assert len(re.findall(r'= "?chlo\.ragged_dot', text)) == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("topology", ["v5e:1x1", "h100:1x1"])
def test_the_gradient_compiles(topology, name):
    parsed = Topology.parse(topology)
    if why := missing(parsed.kind):
        pytest.skip(why)
    place = jax.sharding.SingleDeviceSharding(parsed.devices()[0])
    layer = Layer(LAYERS[name], *SHAPE)
    given = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), layer.abstract)
    with assume_platform("tpu" if parsed.is_tpu else "gpu"):
        compiled = jax.jit(layer.gradient).lower(*given).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**28
