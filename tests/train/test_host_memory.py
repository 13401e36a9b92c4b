"""Optimizer state in host memory: the steps are the same, the state stays there, plans count it apart, and CPUs refuse it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t2t.errors import UserError
from t2t.optim import AdamW, Constant
from t2t.plan.estimate import estimate
from t2t.plan.memory import state_bytes
from t2t.plan.topology import Topology
from t2t.sharding import MeshConfig
from t2t.train.host_memory import HOST, check_device
from t2t.train.program import Program
from t2t.train.run import SavedRun
from tests.models.test_sharded import packed_batch
from tests.objectives.test_distillation import STUDENT
from tests.train.test_ema import assert_same
from tests.train.test_frozen_runs import TINY, run

OFFLOADED = AdamW(schedule=Constant(peak=1e-2), state_memory="host")
MESH = MeshConfig(data=2, fsdp=2)


def places(tree):
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree) if leaf.shape}


def after_two_steps(**changes):
    program = Program.of(replace(STUDENT, mesh=MESH, **changes), MESH.build(jax.devices()[:4]))
    state, step = program.create(0), program.step()
    batch = jax.tree.map(lambda x: jax.device_put(jnp.asarray(x), program.batch_sharding()), packed_batch("decoder"))
    began = places(state.opt_state)
    for _ in range(2):
        state, _ = step(state, batch)
    return state, began


@pytest.mark.slow  # two programs on four devices
def test_the_step_is_the_same_and_the_state_stays_in_host_memory():
    (expected, _), (state, began) = after_two_steps(), after_two_steps(optimizer=OFFLOADED)
    assert began == places(state.opt_state) == {HOST}
    assert places(state.params) == places(expected.opt_state) == {"device"}
    found, wanted = (jax.device_get((it.params, it.opt_state)) for it in (state, expected))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_plans_count_it_apart():
    program = Program.of(replace(STUDENT, optimizer=OFFLOADED), MeshConfig(data=1).build(jax.devices()[:1]))
    held = state_bytes(program)
    assert (held.optimizer, held.host) == (8, 2 * held.parameters)  # the counts of Adam and of the schedule stay
    plain = Program.of(STUDENT, program.mesh)
    moved, there = (estimate(it, Topology.parse("h100:1x1")).memory for it in (program, plain))
    assert moved.total < there.total
    assert moved.total + moved.host >= there.total  # the update needs the state on the device


def test_devices_without_host_memory_refuse_it():
    with pytest.raises(UserError, match=r"state_memory host .*the devices are CPUs.*Nearest: device"):
        check_device(OFFLOADED, jax.devices()[0])
    kinds = [SimpleNamespace(kind="device")]
    other = SimpleNamespace(platform="gpu", device_kind="some", addressable_memories=lambda: kinds)
    with pytest.raises(UserError, match=r"some \(gpu\) cannot read host memory .*memory are device. Nearest: device"):
        check_device(OFFLOADED, other)
    kinds.append(SimpleNamespace(kind=HOST))
    check_device(OFFLOADED, other)


@pytest.mark.slow
def test_a_run_may_resume_with_its_state_in_other_memory(tmp_path):
    run(tmp_path / "whole", replace(TINY, optimizer=replace(OFFLOADED, state_memory="device")))
    run(tmp_path / "halves", replace(TINY, steps=2, optimizer=OFFLOADED))
    run(tmp_path / "halves", replace(TINY, optimizer=replace(OFFLOADED, state_memory="device")))
    run(tmp_path / "others", replace(TINY, steps=2, optimizer=replace(OFFLOADED, state_memory="device")))
    run(tmp_path / "others", replace(TINY, optimizer=OFFLOADED))
    expected = SavedRun.load(tmp_path / "whole").params()
    for name in ("halves", "others"):
        assert_same(SavedRun.load(tmp_path / name).params(), expected)
