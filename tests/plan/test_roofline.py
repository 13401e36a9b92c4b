import dataclasses

import pytest

from t2t.plan.chips import CHIPS
from t2t.plan.collectives import Collective
from t2t.plan.roofline import LINKS, MATMUL, MEMORY, roofline, seconds

V5E, H100 = CHIPS["v5e"], CHIPS["h100"]
GATHER = Collective(kind="all-gather", axes=("fsdp",), group=16, domains=1, spans=(True,), times=1, bytes=16e9)


def test_a_ring_uses_both_directions_and_a_switch_has_one():
    near, far = seconds(V5E, GATHER)
    assert near == pytest.approx(15e9 / (2 * 45e9 * LINKS))
    assert far == 0
    assert seconds(V5E, dataclasses.replace(GATHER, spans=(False,)))[0] == pytest.approx(2 * near)
    assert seconds(V5E, dataclasses.replace(GATHER, kind="all-reduce"))[0] == pytest.approx(2 * near)
    on_gpus = dataclasses.replace(GATHER, group=8, spans=())
    assert seconds(H100, on_gpus)[0] == pytest.approx(14e9 / (450e9 * LINKS))


def test_between_nodes_each_chip_sends_its_own_part():
    near, far = seconds(H100, dataclasses.replace(GATHER, spans=(), domains=2))
    assert near == pytest.approx(14e9 / (450e9 * LINKS))
    assert far == pytest.approx(16e9 / 8 / 2 / (50e9 * LINKS))


def test_a_step_takes_at_least_its_busiest_part():
    found = roofline(V5E, 4, {"bfloat16": 4 * 197e12 * MATMUL}, 819e9 * MEMORY / 2, [GATHER])
    assert found.compute == pytest.approx(1)
    assert found.memory == pytest.approx(0.5)
    assert found.binds == "compute"
    assert found.fastest == found.compute
    assert found.slowest == pytest.approx(1 + found.inside)
    assert roofline(H100, 1, {"float32": 494.7e12}, 0, []).compute == pytest.approx(1 / MATMUL)


@pytest.mark.parametrize(
    ("chip", "int8", "float8"),
    [("v5e", 393e12, 197e12), ("v5p", 918e12, 459e12), ("v6e", 1836e12, 918e12), ("h100", 1978.9e12, 1978.9e12)],
)
def test_eight_bits_have_rates_of_their_own(chip, int8, float8):
    found = roofline(CHIPS[chip], 2, {"int8": int8, "float8": float8}, 0, [])
    assert found.compute == pytest.approx(1 / MATMUL)
