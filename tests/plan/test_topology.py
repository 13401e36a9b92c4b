import pytest

from t2t.errors import UserError
from t2t.plan.topology import Topology


@pytest.mark.parametrize(
    ("text", "chips", "shape", "slices"),
    [
        ("v5e:16x16", 256, (16, 16), 1),
        ("v5e-256", 256, (16, 16), 1),
        ("V5E:16x16*2", 512, (16, 16), 2),
        ("v5p-1024", 512, (8, 8, 8), 1),
        ("v5p:8x8x16", 1024, (8, 8, 16), 1),
        ("v6e-16*4", 64, (4, 4), 4),
        ("h100:32x8", 256, (32, 8), 1),
        ("h100-16", 16, (2, 8), 1),
    ],
)
def test_names(text, chips, shape, slices):
    topology = Topology.parse(text)
    assert (topology.size, topology.shape, topology.slices) == (chips, shape, slices)
    assert Topology.parse(str(topology)) == topology


def test_slices_may_be_told_apart():
    assert Topology.parse("v5e:4x4", 2) == Topology.parse("v5e:4x4*2")
    assert Topology.parse("v5e:4x4*2", 2).size == 32


@pytest.mark.parametrize(
    ("text", "slices", "message"),
    [
        ("v5x:4x4", None, r"unknown chip 'v5x'. Nearest: v5p, v5e"),
        ("v5e", None, "is invalid. Examples: v5e:16x16"),
        ("v5e:4x4x4", None, "v5e needs 2 sizes, each at least 1. Nearest: v5e:4x4"),
        ("v5p:4x4", None, "v5p needs 3 sizes, each at least 1. Nearest: v5p:4x4x4"),
        ("v5e-250", None, "there is no v5e-250. Nearest: v5e-256"),
        ("v5e:4x4*2", 3, "has 2 slices, but --slices is 3"),
        ("h100:2x16", None, "at most 8 GPUs. Nearest: h100:2x8"),
        ("h100:2x8", 2, "GPUs have no slices; set the number of nodes: h100:4x8"),
    ],
)
def test_mistakes_are_named(text, slices, message):
    with pytest.raises(UserError, match=message):
        Topology.parse(text, slices)
