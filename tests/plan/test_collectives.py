"""Programs compiled for eight virtual CPU devices have real collectives in them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from t2t.plan.collectives import Layout, _mesh_groups, collectives
from t2t.plan.hlo import HloModule
from t2t.sharding import MeshConfig


def sent(function, mesh, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return collectives(HloModule(text), Layout.of(mesh, domain=4))


def array(mesh, shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))


def test_a_collective_in_a_scan_counts_as_often_as_it_runs():
    mesh = MeshConfig(data=2, tensor=4).build()

    def function(x, kernels):
        def layer(x, kernel):
            y = jnp.tanh(x @ kernel[0]) @ kernel[1]
            return jax.lax.with_sharding_constraint(y, NamedSharding(mesh, P("data"))), None

        return jax.lax.scan(layer, x, kernels)[0]

    kernels = (array(mesh, (5, 16, 64), None, None, "tensor"), array(mesh, (5, 64, 16), None, "tensor"))
    (found,) = sent(function, mesh, array(mesh, (8, 16), "data"), kernels)
    assert (found.kind, found.axes, found.group, found.times) == ("all-reduce", ("tensor",), 4, 5)
    assert found.domains == 1
    assert found.bytes == 5 * 4 * 16 * 4  # rows of a device, width, float32
    assert found.sent == found.bytes * 2 * 3 / 4


def test_axes_and_domains_are_those_the_groups_span():
    mesh = MeshConfig(data=2, fsdp=2, tensor=2).build()
    whole = NamedSharding(mesh, P())
    (over_all,) = sent(lambda x: jnp.sum(x), mesh, array(mesh, (64,), ("data", "fsdp", "tensor")))
    assert over_all.axes == ("data", "fsdp", "tensor")
    assert (over_all.group, over_all.domains) == (8, 2)
    for axis, domains in (("data", 2), ("fsdp", 1), ("tensor", 1)):
        gather = lambda x: jax.lax.with_sharding_constraint(x * 2, whole)  # noqa: E731
        (found,) = sent(gather, mesh, array(mesh, (64, 3), axis))
        assert (found.kind, found.axes, found.group, found.domains) == ("all-gather", (axis,), 2, domains)
        assert found.bytes == 64 * 3 * 4


def spelled(groups, opcode="all-gather", shape="f32[8]{0}"):
    text = f"ENTRY %main (p: f32[4]) -> f32[8] {{\n  ROOT %x = {shape} {opcode}(%p), channel_id=1, {groups}, dimensions={{0}}\n}}\n"
    layout = Layout(("data", "tensor"), (2, 4), np.zeros((8, 0)), np.zeros(8, int), (), 1)
    (found,) = collectives(HloModule(text), layout)
    return found


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1,2,3},{4,5,6,7}}", ("tensor",)),
        ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("replica_groups={}", ("data", "tensor")),
        ("replica_groups=[2,4]<=[8]", ("tensor",)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", ("data",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", ("tensor",)),
        ("replica_groups=mesh['axis_0'=4,'axis_1'=2], device_ids=([2,4]T(1,0)) {'axis_1'}", ("data",)),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([8]) {'axis_0','axis_1'}", ("data", "tensor")),
    ],
)
def test_every_spelling_of_the_groups_is_read(groups, axes):
    assert spelled(groups).axes == axes


def test_a_part_of_an_axis():
    groups = _mesh_groups("'a'=2,'b'=4", None, "'b':(2)2", 8)
    assert sorted(map(sorted, groups.tolist())) == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_between_slices_a_chip_sends_through_its_host():
    text = """
ENTRY %main (p: f32[8]) -> f32[8] {
  %send = (f32[32,8]{1,0}, u32[], token[]) send(%p, %t), channel_id=5, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %recv = (f32[32,8]{1,0}, u32[], token[]) recv(%t), channel_id=4, is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
}
"""
    layout = Layout(("data", "fsdp"), (2, 4), np.zeros((8, 0)), np.repeat([0, 1], 4), (), 1)
    (found,) = collectives(HloModule(text), layout)
    assert (found.kind, found.axes, found.group, found.domains) == ("all-reduce", ("data",), 2, 2)
    assert found.sent == found.bytes == 32 * 8 * 4


def test_what_runs_asynchronously_counts_once():
    groups = "replica_groups=[2,4]<=[8]"
    start = spelled(groups, "all-gather-start", "(f32[2]{0}, f32[8]{0})")
    assert (start.kind, start.times, start.bytes) == ("all-gather", 1, 32)
    scatter = spelled(groups, "reduce-scatter-start", "((f32[8]{0}, f32[4]{0}), (f32[2]{0}, f32[1]{0}))")
    assert (scatter.kind, scatter.times, scatter.bytes) == ("reduce-scatter", 1, 4 * 3 * 4)
    text = f"""
%piece.1 (p: f32[2]) -> f32[8] {{
  ROOT %g.1 = f32[8]{{0}} all-gather(%p), channel_id=3, {groups}, dimensions={{0}}
}}

%all-reduce-scatter.2 (p: f32[8]) -> f32[2] {{
  %r = f32[8]{{0}} all-reduce(%p), channel_id=4, {groups}
  ROOT %s = f32[2]{{0}} dynamic-slice(%r)
}}

ENTRY %main (p: f32[2]) -> f32[8] {{
  %a = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%piece.1
  %b = f32[2]{{0}} fusion(%a), kind=kCustom, calls=%all-reduce-scatter.2
  ROOT %c = f32[8]{{0}} all-gather(%b), channel_id=3, {groups}, dimensions={{0}}
}}
"""
    layout = Layout(("data", "tensor"), (2, 4), np.zeros((8, 0)), np.zeros(8, int), (), 1)
    found = {item.kind: item for item in collectives(HloModule(text), layout)}
    assert found["all-gather"].times == 1
    assert found["reduce-scatter"].bytes == 32


def test_what_runs_beside_a_loop_counts_once():
    groups = "replica_groups=[2,4]<=[8]"
    text = f"""
%start.1 (p: f32[2]) -> f32[8] {{
  ROOT %g.1 = f32[8]{{0}} all-gather(%p), channel_id=3, {groups}, dimensions={{0}}
}}

%async_collective_fusion.2 (p: f32[2]) -> f32[8] {{
  ROOT %g.2 = f32[8]{{0}} all-gather(%p), channel_id=3, {groups}, dimensions={{0}}
}}

%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {{
  %f = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%async_collective_fusion.2
  %own = f32[8]{{0}} all-gather(%p), channel_id=4, {groups}, dimensions={{0}}
  ROOT %t = (s32[], f32[2]) tuple(%p, %f)
}}

ENTRY %main (p: f32[2]) -> f32[8] {{
  %a = f32[8]{{0}} fusion(%p), kind=kCustom, calls=%start.1
  ROOT %w = (s32[], f32[2]) while(%a), body=%body, backend_config={{"known_trip_count":{{"n":"5"}}}}
}}
"""
    layout = Layout(("data", "tensor"), (2, 4), np.zeros((8, 0)), np.zeros(8, int), (), 1)
    (found,) = collectives(HloModule(text), layout)
    assert (found.kind, found.times) == ("all-gather", 1 + 5)


@pytest.mark.parametrize(("step", "rounds"), [(1, 4), (2, 2), (3, 2)])
def test_a_loop_of_which_the_compiler_made_one_round_of_several(step, rounds):
    # As the TPU compiler overlaps gathering a kernel with multiplying by it: shards go round the ring, two rounds of a loop in one.
    text = f"""
%condition (p: (u32[], f32[2])) -> pred[] {{
  %limit = u32[] constant(4)
  %p.1 = (u32[], f32[2]) parameter(0)
  %at = u32[] get-tuple-element(%p.1), index=0
  ROOT %less = pred[] compare(%at, %limit), direction=LT
}}

%body (p: (u32[], f32[2])) -> (u32[], f32[2]) {{
  %p.2 = (u32[], f32[2]) parameter(0)
  %counter = u32[] get-tuple-element(%p.2), index=0
  %shard = f32[2] get-tuple-element(%p.2), index=1
  %step = u32[] constant({step})
  %next = u32[] add(%counter, %step)
  %sent = f32[2] collective-permute(%shard), channel_id=1, source_target_pairs={{{{0,1}},{{1,2}},{{2,3}},{{3,0}}}}
  ROOT %out = (u32[], f32[2]) tuple(%next, %sent)
}}

ENTRY %main (p: (u32[], f32[2])) -> (u32[], f32[2]) {{
  %p.3 = (u32[], f32[2]) parameter(0)
  ROOT %loop = (u32[], f32[2]) while(%p.3), condition=%condition, body=%body
}}
"""
    program = HloModule(text)
    layout = Layout(("data", "tensor"), (1, 4), np.zeros((4, 0)), np.zeros(4, int), (), 1)
    (found,) = collectives(program, layout)
    assert (found.kind, found.times, program.unknown) == ("collective-permute", rounds, 0)
    assert found.sent == rounds * 2 * 4  # all of it, to the next


def test_an_instruction_of_several_lines_is_one():
    text = """
%body (p: f32[8]) -> f32[8] {
  %kernel = f32[8]{0} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{\\"block_q\\": 128}"
}}, metadata={op_name="jit(f)/kernel"}
  ROOT %last = f32[8]{0} negate(%kernel)
}

ENTRY %main (p: f32[8]) -> f32[8] {
  ROOT %call = f32[8]{0} call(%p), to_apply=%body
}
"""
    program = HloModule(text)
    assert [item.name for item in program.computations["body"]] == ["kernel", "last"]
    assert program.computations["body"][0].source == "jit(f)/kernel"
    assert [item.name for item in program.computations["main"]] == ["call"]
