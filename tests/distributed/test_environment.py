"""What the environment tells a process of its place."""

from __future__ import annotations

import pytest

from t2t.distributed.environment import Place, place
from t2t.errors import UserError

OWN = {"T2T_COORDINATOR": "10.0.0.1:1234", "T2T_PROCESSES": "4", "T2T_PROCESS": "3"}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
}


def test_alone():
    assert place({}) == Place()
    assert not place({}).several
    assert not place({**OWN, "T2T_PROCESSES": "1", "T2T_PROCESS": "0"}).several


def test_our_own_variables_come_before_the_clusters():
    found = place({**OWN, **SLURM, "T2T_DEVICES_PER_PROCESS": "2", "T2T_HEARTBEAT_SECONDS": "30"})
    assert found == Place(coordinator="10.0.0.1:1234", processes=4, process=3, devices=2, heartbeat=30)
    assert found.several


def test_clusters():
    assert place(SLURM) == Place(cluster="slurm")
    assert place({"TPU_WORKER_HOSTNAMES": "a,b"}) == Place(cluster="tpu")
    assert place({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}) == Place(cluster="tpu")
    assert place({"T2T_CLUSTER": "tpu"}) == Place(cluster="tpu")


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a batch script that has called no srun
        {**SLURM, "SLURM_STEP_NUM_TASKS": "1"},  # srun --ntasks=1 in a job of four
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_one_process_of_a_cluster_is_alone(environment):
    assert not place(environment).several


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T2T_PROCESS": ""}, "T2T_COORDINATOR, T2T_PROCESSES set in the environment, but not T2T_PROCESS"),
        (
            {"T2T_COORDINATOR": "host"},
            "T2T_COORDINATOR='host' in the environment must be host:port. Nearest: host:1234",
        ),
        ({"T2T_COORDINATOR": "host:70000"}, "host:port"),
        (
            {"T2T_PROCESSES": "four"},
            "T2T_PROCESSES='four' in the environment must be a whole number of at least 1. Nearest: 1",
        ),
        ({"T2T_PROCESSES": "0"}, "T2T_PROCESSES='0'"),
        ({"T2T_PROCESS": "4"}, "T2T_PROCESS=4 in the environment must be 0 to 3, because T2T_PROCESSES=4. Nearest: 3"),
        ({"T2T_PROCESS": "-1"}, "T2T_PROCESS='-1'"),
        ({"T2T_DEVICES_PER_PROCESS": "0"}, "T2T_DEVICES_PER_PROCESS='0'"),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(UserError, match="environment") as caught:
        place({**OWN, **change})
    assert message in str(caught.value)


def test_an_unknown_cluster_is_named():
    with pytest.raises(UserError, match=r"T2T_CLUSTER='slrum'.*Nearest: slurm"):
        place({"T2T_CLUSTER": "slrum"})
