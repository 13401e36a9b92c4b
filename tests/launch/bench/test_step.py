import numpy as np
import pytest

from t2t.launch.bench import step
from t2t.plan import flops
from t2t.plan.memory import state_bytes
from t2t.sharding import MeshConfig
from tests.launch.bench.workloads import CEILINGS, named, workload


@pytest.fixture(scope="module")
def measured():
    notes: list[str] = []
    work = workload(mesh=MeshConfig(data=2), note=notes.append)
    found = named(list(step.measure(work)))
    return work, found, notes


def test_rates_are_counts_over_the_seconds_of_the_step(measured):
    work, found, _ = measured
    seconds = np.array(found["step"].samples)
    assert len(seconds) == work.limits.repeats
    operations = flops.count(work.program)
    np.testing.assert_allclose(np.array(found["model FLOPs"].samples) * seconds, operations.model)
    assert found["model FLOPs"].details["hardware_flops"] == operations.total
    # The step itself counts its tokens.
    np.testing.assert_allclose(np.array(found["tokens"].samples) * seconds, 8 * (24 + 16))
    np.testing.assert_allclose(np.array(found["examples"].samples) * seconds, 8)
    assert all(np.array(found["dispatch by Python"].samples) <= seconds)


def test_the_rate_is_told_beside_the_ceiling_of_the_type_computed_in(measured):
    _, found, notes = measured
    rate = found["model FLOPs"]
    assert rate.of == "measured float32 matmul"
    assert rate.share == rate.median / CEILINGS.matmul["float32"]
    assert notes == [step.CONVENTION]


def test_memory_is_that_of_the_shards_and_the_state_is_donated(measured):
    work, found, _ = measured
    held, expected = found["state and batch a device"], state_bytes(work.program)
    assert held.details["batch"] == expected.batch
    assert held.details["state"] >= expected.parameters + expected.optimizer
    assert held.median == held.details["state"] + held.details["batch"]
    assert held.details["donated"] >= expected.parameters + expected.optimizer
