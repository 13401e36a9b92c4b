"""Whole plans: estimates on devices that are there, and programs compiled for devices that are not."""

import dataclasses

import jax
import pytest

from t2t.errors import UserError
from t2t.plan.plan import estimate_plan, plan, prepare
from t2t.plan.search import search, suggest_fixes
from t2t.plan.topology import Topology, missing
from t2t.sharding import MeshConfig
from tests.plan.experiments import decoder, encoder_decoder

ONE, EIGHT = Topology.parse("h100:1x1"), Topology.parse("h100:1x8")


def small(topology, gib):
    """The topology with chips of less memory."""

    class Small(Topology):
        chip = dataclasses.replace(topology.chip, hbm=gib * 2**30)

    return Small(kind=topology.kind, shape=topology.shape)


@pytest.mark.slow
def test_an_estimate_is_near_the_compiled_program():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2)
    program = prepare(decoder(mesh=mesh, remat="full"), EIGHT, jax.devices())
    estimated, compiled = estimate_plan(program, EIGHT), plan(program, EIGHT)
    assert compiled.compiled
    assert not estimated.compiled
    assert estimated.flops == compiled.flops
    for name in ("parameters", "optimizer", "batch", "gradients"):
        assert getattr(estimated.memory, name) == getattr(compiled.memory, name)
    assert estimated.memory.activations == compiled.memory.activations
    assert {axes for item in compiled.sent for axes in item.axes} == {"data", "fsdp", "tensor"}
    assert compiled.roofline.fastest <= compiled.roofline.slowest
    assert compiled.to_json()["memory"]["total"] == compiled.memory.total


MOE = {"num_experts": 4, "biases": False, "gated": True, "dtype": "float32"}


MIXED = MeshConfig(data=1, fsdp=2, expert=2, tensor=2)


@pytest.mark.parametrize("capacity", [None, 1.0], ids=["sorted", "limited"])
@pytest.mark.parametrize("mesh", [MeshConfig(data=2, expert=4), MIXED], ids=["data and expert", "fsdp, expert, tensor"])
def test_the_estimate_has_what_is_sent_to_experts(mesh, capacity):
    experiment = decoder(mesh=mesh, expert_capacity=capacity, **MOE)
    found = estimate_plan(prepare(experiment, EIGHT), EIGHT)
    sent = {item.kind: item.bytes for item in found.sent if item.axes == ("expert",)}
    layers, rows, length, width, passes = 3, 8 // (mesh.data * mesh.fsdp * mesh.expert), 16, 64, 2
    if capacity is None:
        everywhere = 4 * passes * layers * rows * mesh.expert * length
        assert sent["all-gather"] == everywhere * (width + 2 * 2)
        assert sent["reduce-scatter"] == everywhere * width
    else:
        assert sent["all-to-all"] == 4 * passes * layers * rows * 2 * 4 * 8 * width
    experts, norms, positions = layers * 4 * 3 * 64 * 160, 2 * layers * 2 * 64 + 2 * 64, 16 * 64
    # Norms, routers and positions are not divided over `tensor`.
    whole = norms + layers * 64 * 4 + positions
    assert sent["all-reduce"] == 4 / mesh.fsdp * (whole + (found.parameters - experts - whole) / mesh.tensor)
    assert found.active == found.parameters - experts // 2
    assert found.to_json()["active_parameters"] == found.active


@pytest.mark.slow
@pytest.mark.parametrize("capacity", [None, 1.0], ids=["sorted", "limited"])
@pytest.mark.parametrize("mesh", [MeshConfig(data=1, expert=8), MIXED], ids=["expert", "fsdp, expert, tensor"])
def test_what_is_sent_to_experts_is_near_what_is_compiled(mesh, capacity):
    experiment = decoder(mesh=mesh, expert_capacity=capacity, **{**MOE, "num_experts": 8})
    program = prepare(experiment, EIGHT, jax.devices())
    estimated, compiled = (
        sum(item.sent for item in made.sent if "expert" in item.axes)
        for made in (estimate_plan(program, EIGHT), plan(program, EIGHT))
    )
    assert estimated == pytest.approx(compiled, rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["none", "full"])
def test_the_estimate_counts_the_layer_that_is_gone_back_through(remat):
    # Attention of rows so long that one layer's logits and their gradient are most there is.
    program = prepare(decoder(mesh=MeshConfig(data=1), batch_size=2, length=1024, remat=remat), ONE, jax.devices()[:1])
    estimated, compiled = (made.memory for made in (estimate_plan(program, ONE), plan(program, ONE)))
    assert estimated.total == pytest.approx(compiled.total - compiled.code, rel=0.1)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("make", [decoder, encoder_decoder])
def test_an_estimate_is_near_what_the_compiler_for_gpus_says(make, remat):
    why = missing(ONE.kind)
    if why:
        pytest.skip(why)
    sizes = {"num_layers": 6, "d_model": 512, "num_heads": 8, "d_ff": 2048, "vocab_size": 8192, "dtype": "bfloat16"}
    program = prepare(make(mesh=MeshConfig(data=1), length=512, remat=remat, **sizes), ONE, ONE.devices()[:1])
    estimated, compiled = (made.memory for made in (estimate_plan(program, ONE), plan(program, ONE)))
    assert estimated.total == pytest.approx(compiled.total - compiled.code, rel=0.1)


def test_what_is_too_large_is_mended_by_options_that_fit():
    experiment = decoder(batch_size=4096, length=256, mesh=MeshConfig(data=8))
    topology = small(EIGHT, 4)
    assert not estimate_plan(prepare(experiment, topology, jax.devices()), topology).fits
    found = suggest_fixes(experiment, topology, jax.devices())
    assert found
    assert all(it.fits for _, it in found)
    assert any("--model.remat full" in options for options, _ in found)
    assert any("--microbatches" in options for options, _ in found)


@pytest.mark.slow
def test_a_search_ranks_what_fits():
    topology = small(EIGHT, 4)
    found = search(decoder(batch_size=512, length=64), topology, jax.devices())
    assert len(found) > 8
    assert [it.roofline.slowest for it in found] == sorted(it.roofline.slowest for it in found)
    assert all(it.fits for it in found)
    assert {it.mesh["tensor"] for it in found} == {1, 2, 4}  # 8 do not divide four heads


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=8), MeshConfig(data=2, fsdp=2, tensor=2), MeshConfig(data=1, fsdp=2, context=4)]
)
def test_an_estimate_without_devices_is_that_with_them(mesh):
    experiment = decoder(mesh=mesh, batch_size=32)
    without = estimate_plan(prepare(experiment, EIGHT), EIGHT)
    given = estimate_plan(prepare(experiment, EIGHT, jax.devices()), EIGHT)
    assert without.to_json() == given.to_json()


@pytest.mark.slow
def test_a_search_without_devices_finds_what_one_with_them_does():
    topology = Topology.parse("h100:1x2")
    found = [search(decoder(batch_size=2, length=16), topology, devices) for devices in (None, jax.devices()[:2])]
    assert found[0]
    assert [it.to_json() for it in found[0]] == [it.to_json() for it in found[1]]


def test_what_does_not_divide_is_refused_without_devices_too():
    with pytest.raises(UserError, match=r"does not divide|is smaller than"):
        prepare(decoder(mesh=MeshConfig(data=1, tensor=3, fsdp=-1)), Topology(kind="v5e", shape=(3, 1)))


@pytest.mark.parametrize("name", ["v5e:4x4", "v5e:8x4", "v5p:2x2x1", "v5p:4x4x12", "v6e:2x4", "h100:3x8", "h100:1x5"])
def test_slices_that_exist(name):
    Topology.parse(name).check()


def test_slices_of_the_mesh_are_those_of_the_topology():
    with pytest.raises(UserError, match=r"mesh.slices 4 .* has 2. Nearest: 2"):
        prepare(decoder(mesh=MeshConfig(slices=4)), Topology.parse("v5e:2x2*2"), jax.devices())


@pytest.mark.parametrize("kind", ["v5e", "h100"])
def test_what_is_missing_is_told(kind, monkeypatch):
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    topology = Topology.parse(f"{kind}:2x2")
    with pytest.raises(UserError, match=r"compiler is not installed: pip install .*jax"):
        topology.devices()


def devices(topology):
    why = missing(topology.kind)
    if why:
        pytest.skip(why)
    return topology.devices()


MODEL = {"num_layers": 2, "d_model": 256, "d_ff": 1024, "vocab_size": 512, "dtype": "bfloat16", "remat": "full"}


@pytest.mark.parametrize(
    ("name", "mesh"), [("v5e:2x2", MeshConfig(data=1, fsdp=4)), ("h100:1x4", MeshConfig(data=1, fsdp=2, tensor=2))]
)
def test_compiled_for_what_is_not_there(name, mesh):
    topology = Topology.parse(name)
    found = devices(topology)
    made = plan(prepare(decoder(mesh=mesh, length=128, batch_size=8, **MODEL), topology, found), topology)
    assert made.compiled
    assert made.fits
    assert made.unknown == 0
    # Both layers' inputs, in bfloat16; a TPU has room for so little in its vector memory.
    assert made.memory.activations in (0, 2 * (8 / made.mesh["fsdp"]) * 128 * 256 * 2)
    assert topology.is_tpu or made.memory.activations
    assert made.memory.total < 2**30
    gathered = sum(item.bytes for item in made.sent if item.kind == "all-gather" and item.axes == ("fsdp",))
    kernels = 2 * (4 * 256 * 256 + 2 * 256 * 1024) / made.mesh["tensor"]
    # Each kernel is gathered for the forward and for the backward pass, as bfloat16 or as float32.
    assert 1.8 * 2 * kernels < gathered < 3 * 4 * (kernels + 512 * 256)
    tensor = [item for item in made.sent if item.axes == ("tensor",)]
    assert bool(tensor) == (made.mesh["tensor"] > 1)


def test_too_large_a_step_is_refused_by_the_tpu_compiler():
    topology = Topology.parse("v5e:2x2")
    found = devices(topology)
    experiment = decoder(mesh=MeshConfig(data=4), length=2048, batch_size=64, num_heads=16)
    made = plan(prepare(experiment, topology, found), topology)
    assert not made.fits
    assert made.needed > topology.chip.hbm
    assert suggest_fixes(experiment, topology, found, at_most=1)


def test_two_slices_are_told_from_one():
    topology = Topology.parse("v5e:2x2*2")
    experiment = decoder(mesh=MeshConfig(data=2, fsdp=4), length=128, **MODEL)
    made = plan(prepare(experiment, topology, devices(topology)), topology)
    assert {item.domains for item in made.sent if item.axes == ("data",)} == {2}
    assert {item.domains for item in made.sent if item.axes == ("fsdp",)} == {1}
    assert made.roofline.between > 0
