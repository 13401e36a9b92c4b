"""Finding the other processes, before JAX starts its devices."""

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
    """Make this process one of several where the environment says so; to be called before JAX's first use.

    Reads `T2T_COORDINATOR` (host:port of process 0), `T2T_PROCESSES` and `T2T_PROCESS`, which `t2t launch` sets; else SLURM's or a TPU
    slice's own description, which JAX knows to read. `T2T_DEVICES_PER_PROCESS` is the number of virtual CPU devices. A process that has
    not found the others within `T2T_START_SECONDS` (300) says whom it waited for, and ends with code 1; one that hears nothing of
    another for `T2T_HEARTBEAT_SECONDS` (8) is ended by JAX.

    Process 0 listens at the coordinator's port: on the loopback interface alone where T2T_COORDINATOR names that, at the address itself where
    it is a number of this machine's, else on all interfaces, unless JAX_COORDINATOR_BIND_ADDRESS says otherwise.

    Raises UserError where the variables are set in part or hold what they cannot, or process 0 cannot listen at the port.
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
    # JAX would abort the process from C++ at the end of its own patience, with a stack trace and without saying whom it looked for.
    watch = threading.Timer(found.patience, _give_up, [found])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator_address=found.coordinator,
            coordinator_bind_address=listen,
            num_processes=found.processes,
            process_id=found.process,
            # Where all is told, JAX must not ask SLURM for the rest: it would take one GPU for each process.
            cluster_detection_method=_asked(found),
            initialization_timeout=found.patience + 30,
            heartbeat_timeout_seconds=found.heartbeat,
        )
    except Exception as error:
        print(
            f"error: {_whoami(found)} could not join the others: {' '.join(str(error).split())[:300]}", file=sys.stderr
        )
        leave(1)
    finally:
        watch.cancel()
    return found


def _listen(found: Place, environment: Mapping[str, str]) -> str | None:
    """Return where process 0 listens, None where JAX chooses. Raises UserError where it cannot: JAX would crash."""
    if found.coordinator is None or found.process != 0:
        return None
    name = LISTEN if environment.get(LISTEN) else COORDINATOR
    host, port = address_of(environment, name)
    address = host if name == LISTEN else own_address(host)
    if reason := cannot_listen("" if address in (None, "::") else address, port):
        raise UserError(
            f"{name}={environment[name]!r} in the environment: process 0 cannot listen at port {port}: {reason}."
            f" Nearest: {environment[name].removesuffix(str(port))}{free_port()}."
        )
    if address is None:
        return None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _asked(found: Place) -> str | None:
    if found.coordinator is not None:
        return "deactivate"
    return "slurm" if found.cluster == "slurm" else None  # JAX finds out itself which kind of TPU slice it is on


def _give_up(found: Place) -> None:
    print(
        f"error: {_whoami(found)}: not all processes had come after {found.patience} s; {_reach(found)}",
        file=sys.stderr,
    )
    leave(1)


def _whoami(found: Place) -> str:
    which = f"process {found.process} of {found.processes}" if found.coordinator else f"a process of {found.cluster}"
    return f"{which} on {socket.gethostname()}"


def _reach(found: Place) -> str:
    """Say how far it is to the coordinator."""
    if found.coordinator is None:
        return f"the coordinator is whom {found.cluster} names first"
    where = f"the coordinator {found.coordinator} ({COORDINATOR})"
    host, _, port = found.coordinator.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=3).close()
    except socket.gaierror:
        return f"{where}: the name does not resolve here"
    except OSError as error:
        return f"{where} is not reached from here ({error.strerror or error}): has process 0 started, may this port be used?"
    return f"{where} is reached from here, others have not come to it: look at their output"
