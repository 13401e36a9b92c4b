"""Connect to the other processes before JAX initializes its devices."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Mapping

from t2t.distributed.end import leave
from t2t.distributed.environment import COORDINATOR, LISTEN, Place, address_of, place
from t2t.distributed.ports import cannot_listen, free_port, own_address
from t2t.errors import UserError


def initialise(environment: Mapping[str, str] = os.environ) -> Place:
    """Connect this process to the other processes if the environment describes a multi-process run. Call it before the first use of JAX.

    The environment variables are `T2T_COORDINATOR` (host:port of process 0), `T2T_PROCESSES` and `T2T_PROCESS`, which `t2t launch` sets. Without
    them, JAX reads the description of a SLURM step or a TPU slice. `T2T_DEVICES_PER_PROCESS` is the number of virtual CPU devices.

    If not all processes connect within `T2T_START_SECONDS` (300), this process prints what it waited for and exits with code 1. If another process
    sends no heartbeat for `T2T_HEARTBEAT_SECONDS` (8), JAX ends this process.

    Process 0 listens on the coordinator's port. It listens on the loopback interface only if T2T_COORDINATOR is a loopback address, on one address if
    T2T_COORDINATOR is an IP address of this machine, and on all interfaces otherwise. JAX_COORDINATOR_BIND_ADDRESS overrides this.

    Raises UserError if only some of the variables are set, if a value is invalid, or if process 0 cannot listen on the port.
    """
    found = place(environment)
    if found.devices is None and not found.several:
        return found
    import jax

    if found.devices is not None:
        jax.config.update("jax_num_cpu_devices", found.devices)
    if not found.several or jax.distributed.is_initialized():
        return found
    listen = _listen(found, environment)
    # At its own timeout, JAX aborts the process from C++ with a stack trace, and does not print the coordinator. So this timer ends it earlier.
    watch = threading.Timer(found.patience, _give_up, [found])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator_address=found.coordinator,
            coordinator_bind_address=listen,
            num_processes=found.processes,
            process_id=found.process,
            # If the variables are complete, JAX must not ask SLURM: it would use only one GPU per process.
            cluster_detection_method=_detection_method(found),
            initialization_timeout=found.patience + 30,
            heartbeat_timeout_seconds=found.heartbeat,
        )
    except Exception as error:
        print(
            f"error: {_whoami(found)} cannot connect to the other processes: {' '.join(str(error).split())[:300]}",
            file=sys.stderr,
        )
        leave(1)
    finally:
        watch.cancel()
    return found


def _listen(found: Place, environment: Mapping[str, str]) -> str | None:
    """Return the address where process 0 listens; None if JAX chooses. Raise UserError if it cannot listen there, because JAX would crash."""
    if found.coordinator is None or found.process != 0:
        return None
    name = LISTEN if environment.get(LISTEN) else COORDINATOR
    host, port = address_of(environment, name)
    address = host if name == LISTEN else own_address(host)
    if reason := cannot_listen("" if address in (None, "::") else address, port):
        raise UserError(
            f"{name}={environment[name]!r} in the environment: process 0 cannot listen on port {port}: {reason}."
            f" Nearest: {environment[name].removesuffix(str(port))}{free_port()}."
        )
    if address is None:
        return None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _detection_method(found: Place) -> str | None:
    if found.coordinator is not None:
        return "deactivate"
    return "slurm" if found.cluster == "slurm" else None  # JAX detects the kind of TPU slice


def _give_up(found: Place) -> None:
    print(
        f"error: {_whoami(found)}: not all processes connected within {found.patience} s; {_connection(found)}",
        file=sys.stderr,
    )
    leave(1)


def _whoami(found: Place) -> str:
    which = f"process {found.process} of {found.processes}" if found.coordinator else f"a process of {found.cluster}"
    return f"{which} on {socket.gethostname()}"


def _connection(found: Place) -> str:
    """Return whether this process can connect to the coordinator, as text."""
    if found.coordinator is None:
        return f"the coordinator is the first host that {found.cluster} lists"
    where = f"the coordinator {found.coordinator} ({COORDINATOR})"
    host, _, port = found.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except socket.gaierror:
        return f"{where}: the name does not resolve on this host"
    except OSError as error:
        return f"{where} is unreachable from this host ({error.strerror or error}): check that process 0 has started and that the port is open"
    return f"{where} is reachable from this host, but other processes have not connected to it: look at their output"
