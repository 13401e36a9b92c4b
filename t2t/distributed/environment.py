"""What a process is told of its place among others, in environment variables. Imports no JAX."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from t2t.errors import UserError, nearest

COORDINATOR, PROCESSES, PROCESS = "T2T_COORDINATOR", "T2T_PROCESSES", "T2T_PROCESS"
CLUSTER = "T2T_CLUSTER"
DEVICES = "T2T_DEVICES_PER_PROCESS"
HEARTBEAT, PATIENCE = "T2T_HEARTBEAT_SECONDS", "T2T_START_SECONDS"
LISTEN = "JAX_COORDINATOR_BIND_ADDRESS"
"""JAX's own variable: where process 0 listens, host:port, if not at the coordinator's address."""
LAUNCHER = "T2T_LAUNCHER"
"""The process id of the launcher on this machine, whose processes do not outlive it."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][A-Za-z0-9._-]*):(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A process's place among the processes of one program.

    coordinator: "host:port" of process 0; None where JAX asks the cluster.
    processes, process: how many there are, and which this is; None where JAX asks the cluster.
    cluster:     whom JAX asks; None where all is told.
    devices:     virtual CPU devices of each process; None leaves JAX's choice.
    heartbeat:   seconds without a sign of life after which a process counts as dead.
    patience:    seconds to wait for all processes at the start.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    cluster: Literal["slurm", "tpu"] | None = None
    devices: int | None = None
    heartbeat: int = 8
    patience: int = 300

    @property
    def several(self) -> bool:
        """Whether there are other processes to be found."""
        return self.cluster is not None or (self.processes or 1) > 1


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place that the environment tells: our own variables, else SLURM's step of several tasks, else a TPU slice of several hosts.

    Raises UserError where our variables are set in part, or hold what they cannot.
    """
    alone = Place(
        devices=_number(environment, DEVICES, least=1),
        heartbeat=_number(environment, HEARTBEAT, least=1) or Place.heartbeat,
        patience=_number(environment, PATIENCE, least=1) or Place.patience,
    )
    given = [name for name in (COORDINATOR, PROCESSES, PROCESS) if environment.get(name)]
    if given:
        missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in given]
        if missing:
            raise UserError(
                f"{', '.join(given)} set in the environment, but not {' and '.join(missing)}: set all three or none"
            )
        return _told(environment, alone)
    cluster = environment.get(CLUSTER)
    if cluster:
        if cluster not in ("slurm", "tpu"):
            raise UserError(
                f"{CLUSTER}={cluster!r} in the environment: not a cluster JAX can ask.{nearest(cluster, ['slurm', 'tpu'])}"
            )
        return replace(alone, cluster="slurm" if cluster == "slurm" else "tpu")
    # SLURM_STEP_NUM_TASKS is set by srun; a batch script that calls no srun is one process, whatever the job's tasks.
    if "SLURM_PROCID" in environment and (_number(environment, "SLURM_STEP_NUM_TASKS", least=1) or 1) > 1:
        return replace(alone, cluster="slurm")
    slices = environment.get("MEGASCALE_NUM_SLICES", "1")
    if len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or slices not in ("", "1"):
        return replace(alone, cluster="tpu")
    return alone


def _told(environment: Mapping[str, str], alone: Place) -> Place:
    address = environment[COORDINATOR]
    address_of(environment, COORDINATOR)
    processes, process = _number(environment, PROCESSES, least=1), _number(environment, PROCESS, least=0)
    assert processes is not None
    assert process is not None
    if process >= processes:
        raise UserError(
            f"{PROCESS}={process} in the environment: {PROCESSES}={processes}, so it is 0 to {processes - 1}. Nearest: {processes - 1}."
        )
    return replace(alone, coordinator=address, processes=processes, process=process)


def address_of(environment: Mapping[str, str], name: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port that a variable holds. Raises UserError where it is not host:port."""
    address = environment[name]
    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found[2]) < 65536:
        host = address.rpartition(":")[0] or address.partition(":")[0] or "127.0.0.1"
        raise UserError(f"{name}={address!r} in the environment: it is host:port. Nearest: {host}:1234.")
    return found[1].strip("[]"), int(found[2])


def _number(environment: Mapping[str, str], name: str, *, least: int) -> int | None:
    value = environment.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) < least:
        raise UserError(f"{name}={value!r} in the environment: it is a whole number from {least} on. Nearest: {least}.")
    return int(value)
