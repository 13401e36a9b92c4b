"""Environment variables that describe this process in a multi-process run. Does not import JAX."""

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
"""JAX's variable for the address (host:port) where process 0 listens, if it is not the coordinator's address."""
LAUNCHER = "T2T_LAUNCHER"
"""Process id of the launcher on this machine. Its processes end when the launcher ends."""

_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9][A-Za-z0-9._-]*):(\d{1,5})")


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place of this process among the processes of a run.

    coordinator: "host:port" of process 0; None if JAX asks the cluster.
    processes:   number of processes; None if JAX asks the cluster.
    process:     index of this process; None if JAX asks the cluster.
    cluster:     the cluster that JAX asks; None if the environment variables are complete or this is the only process.
    devices:     number of virtual CPU devices per process; None means JAX's default.
    heartbeat:   seconds without a heartbeat after which a process counts as dead.
    patience:    seconds to wait for all processes at startup.
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
        """Whether the run has other processes to connect to."""
        return self.cluster is not None or (self.processes or 1) > 1


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place of this process, from environment variables.

    The sources are, in order: the T2T_* variables, a SLURM step with several tasks, a TPU slice with several hosts.

    Raises UserError if only some of the T2T_* variables are set, or if a value is invalid.
    """
    single = Place(
        devices=_number(environment, DEVICES, least=1),
        heartbeat=_number(environment, HEARTBEAT, least=1) or Place.heartbeat,
        patience=_number(environment, PATIENCE, least=1) or Place.patience,
    )
    present = [name for name in (COORDINATOR, PROCESSES, PROCESS) if environment.get(name)]
    if present:
        missing = [name for name in (COORDINATOR, PROCESSES, PROCESS) if name not in present]
        if missing:
            raise UserError(
                f"{', '.join(present)} set in the environment, but not {' and '.join(missing)}: set all three or none"
            )
        return _from_variables(environment, single)
    cluster = environment.get(CLUSTER)
    if cluster:
        if cluster not in ("slurm", "tpu"):
            raise UserError(
                f"{CLUSTER}={cluster!r} in the environment: unknown cluster.{nearest(cluster, ['slurm', 'tpu'])}"
            )
        return replace(single, cluster="slurm" if cluster == "slurm" else "tpu")
    # srun sets SLURM_STEP_NUM_TASKS. A batch script without srun is one process, even if the job has several tasks.
    if "SLURM_PROCID" in environment and (_number(environment, "SLURM_STEP_NUM_TASKS", least=1) or 1) > 1:
        return replace(single, cluster="slurm")
    slices = environment.get("MEGASCALE_NUM_SLICES", "1")
    if len(environment.get("TPU_WORKER_HOSTNAMES", "").split(",")) > 1 or slices not in ("", "1"):
        return replace(single, cluster="tpu")
    return single


def _from_variables(environment: Mapping[str, str], single: Place) -> Place:
    address = environment[COORDINATOR]
    address_of(environment, COORDINATOR)
    processes, process = _number(environment, PROCESSES, least=1), _number(environment, PROCESS, least=0)
    assert processes is not None
    assert process is not None
    if process >= processes:
        raise UserError(
            f"{PROCESS}={process} in the environment must be 0 to {processes - 1}, because {PROCESSES}={processes}. Nearest: {processes - 1}."
        )
    return replace(single, coordinator=address, processes=processes, process=process)


def address_of(environment: Mapping[str, str], name: str) -> tuple[str, int]:
    """Return the host (without brackets) and the port in a variable. Raise UserError if its value is not host:port."""
    address = environment[name]
    found = _ADDRESS.fullmatch(address)
    if not found or not 0 < int(found[2]) < 65536:
        host = address.rpartition(":")[0] or address.partition(":")[0] or "127.0.0.1"
        raise UserError(f"{name}={address!r} in the environment must be host:port. Nearest: {host}:1234.")
    return found[1].strip("[]"), int(found[2])


def _number(environment: Mapping[str, str], name: str, *, least: int) -> int | None:
    value = environment.get(name, "")
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or int(value) < least:
        raise UserError(
            f"{name}={value!r} in the environment must be a whole number of at least {least}. Nearest: {least}."
        )
    return int(value)
