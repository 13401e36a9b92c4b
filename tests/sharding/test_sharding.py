from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from t2t.errors import UserError
from t2t.sharding import DEFAULT_RULES, MeshConfig, Rules, Share, activate, constrain, share_of_rows


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (8, 1, 1, 1, 1)),
        (MeshConfig(data=2, fsdp=-1, tensor=2), (2, 2, 1, 1, 2)),
        (MeshConfig(data=1, context=8), (1, 1, 1, 8, 1)),
        (MeshConfig(data=2, expert=-1), (2, 1, 4, 1, 1)),
        (MeshConfig(data=1, fsdp=8, slices=4, between="fsdp"), (1, 8, 1, 1, 1)),
    ],
)
def test_one_axis_takes_what_is_left(config, sizes):
    assert tuple(config.build().shape.values()) == sizes


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=3), "needs 3 devices, but there are 8. Nearest product that divides the number of devices: 2"),
        (MeshConfig(tensor=3), "needs a multiple of 3 devices, but there are 8"),
        (MeshConfig(data=4), "needs 4 devices, but there are 8"),
        (MeshConfig(data=-1, fsdp=-1), "at most one size can be -1"),
        (MeshConfig(data=1, fsdp=8, slices=2), "2 slices .* do not divide data=1, .* Nearest: 1"),
        (MeshConfig(slices=3), "3 slices .* do not divide data=8"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(config, message):
    with pytest.raises(UserError, match=message):
        config.build()


class Device:
    """As much of a device as layout asks for: two slices of four, given in an order that mixes them."""

    platform, device_kind = "cpu", "cpu"

    def __init__(self, number):
        self.id, self.slice_index, self.process_index = number, number % 2, number % 2


def test_slices_hold_whole_rows_of_the_inner_axes():
    devices = [Device(number) for number in range(8)]
    mesh = MeshConfig(data=4, tensor=2, slices=2).build(devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)[:, 0, 0, 0]
    np.testing.assert_array_equal(slices, [[0, 0], [0, 0], [1, 1], [1, 1]])
    with pytest.raises(UserError, match=r"4 slices .* in 2 slices of 4, 4 devices. Nearest: 2"):
        MeshConfig(data=4, tensor=2, slices=4).build(devices)


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (MeshConfig(data=8), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (MeshConfig(data=1, fsdp=8), [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (MeshConfig(data=2, tensor=4), [(0, 2), (0, 2), (1, 2), (1, 2)]),
        (MeshConfig(data=1, context=2, tensor=4), [(0, 1)] * 4),
    ],
)
def test_processes_hold_shares_of_the_rows(config, shares, monkeypatch):
    mesh = config.build()
    sharding = DEFAULT_RULES.sharding(("batch", "length"), (16, 16), mesh)
    belongs = {device: device.id // 2 for device in jax.devices()}  # four processes of two devices
    monkeypatch.setattr("t2t.sharding.hosts._process_of", belongs.__getitem__)
    assert [share_of_rows(sharding, 16, process) for process in range(4)] == [
        Share(*share, leads=share not in shares[:i]) for i, share in enumerate(shares)
    ]


@pytest.fixture(scope="module")
def mesh():
    return MeshConfig(data=2, fsdp=2, tensor=2).build()


def test_logical_axes_become_mesh_axes(mesh):
    assert DEFAULT_RULES.spec(("layers", "embed", "mlp"), (3, 4, 6), mesh) == P(None, "fsdp", "tensor")
    assert DEFAULT_RULES.spec(("batch", "length", None), (8, 5, 7), mesh) == P(("data", "fsdp"))
    assert DEFAULT_RULES.spec((None, "vocab"), (3, 4), MeshConfig().build()) == P()


def test_two_axes_that_want_one_mesh_axis_collide(mesh):
    with pytest.raises(ValueError, match="'heads' and 'mlp' would both be sharded over mesh axis 'tensor'"):
        DEFAULT_RULES.spec(("heads", "mlp"), (2, 2), mesh)


def test_an_unknown_axis_is_an_error(mesh):
    with pytest.raises(ValueError, match=r"unknown logical axis 'embedd'. Nearest: embed"):
        DEFAULT_RULES.spec(("embedd",), (2,), mesh)


def test_a_size_that_does_not_divide_is_refused_by_name(mesh):
    with pytest.raises(UserError, match=r"head/kernel: vocab = 359 does not divide over mesh tensor=2.*358, 360"):
        DEFAULT_RULES.spec(("embed", "vocab"), (4, 359), mesh, name="head/kernel")


def test_constrain_pins_the_layout_only_inside_a_mesh(mesh):
    x = jnp.arange(16.0).reshape(8, 2)
    assert constrain(x, ("batch", None)) is x
    with activate(mesh, Rules({"batch": ("data", "fsdp")})):
        y = jax.jit(lambda x: constrain(x, ("batch", None)))(x)
    assert y.sharding.spec == P(("data", "fsdp"))
    np.testing.assert_array_equal(x, y)
    assert constrain(x, ("batch", None)) is x
