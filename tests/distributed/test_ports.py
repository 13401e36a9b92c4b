"""Where process 0 listens, and what is said where it cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2t.distributed import ports, start
from t2t.distributed.environment import Place, place
from t2t.errors import UserError
from t2t.launch.launchers.local import Local
from t2t.launch.main import run as t2t

ROOT = Path(__file__).parents[2]
SIX = not ports.cannot_listen("::1", 0)


@pytest.fixture(params=["127.0.0.1", "0.0.0.0", *(["::1", "::"] if SIX else [])])
def taken(request) -> Iterator[int]:
    """A port that another program listens at."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family) as held:
        held.bind((request.param, 0))
        held.listen()
        yield held.getsockname()[1]


def listen(coordinator: str, **more: str) -> str | None:
    environment = {"T2T_COORDINATOR": coordinator, "T2T_PROCESSES": "2", "T2T_PROCESS": "0", **more}
    return start._listen(place(environment), environment)


def test_process_0_listens_where_the_coordinators_address_says():
    port = ports.free_port()
    assert listen(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
    assert listen(f"localhost:{port}") == f"localhost:{port}"
    assert listen(f"node0.cluster:{port}") is None  # all interfaces: its own name may lead to the loopback interface
    assert listen(f"192.0.2.1:{port}") is None  # an address that is not this machine's: translated on the way
    assert listen(f"node0:{port}", JAX_COORDINATOR_BIND_ADDRESS=f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
    if SIX:
        assert listen(f"[::1]:{port}") == f"[::1]:{port}"
    assert start._listen(Place(coordinator=f"127.0.0.1:{port}", processes=2, process=1), {}) is None
    assert start._listen(Place(cluster="slurm"), {}) is None


@pytest.mark.parametrize("value", ["host", "127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:http", ":5"])
def test_a_bad_address_to_listen_at_is_named(value):
    for name in ("T2T_COORDINATOR", "JAX_COORDINATOR_BIND_ADDRESS"):
        with pytest.raises(UserError, match=rf"{name}='{value}' in the environment must be host:port"):
            listen("127.0.0.1:1234", **{name: value})


def test_a_port_that_is_taken_is_named(taken, capsys):
    assert t2t(["launch", "local", "-n", "2", "--port", str(taken), "--", "train", "t5:quickstart", "--dir", "r"]) == 2
    written = capsys.readouterr().err
    assert written.startswith(f"error: t2t launch local: --port {taken}: another program uses it")
    assert len(written.splitlines()) == 1
    with pytest.raises(
        UserError, match=rf"process 0 cannot listen on port {taken}: .*address already in use.*Nearest: node0:\d+"
    ):
        listen(f"node0:{taken}")


def test_ports_that_there_are_not(monkeypatch, capsys):
    for port in ("65536", "0", "-3"):
        assert t2t(["launch", "local", "--port", port, "--", "train", "t5:quickstart", "--dir", "r"]) == 2
        written = capsys.readouterr().err
        assert f"port {port} (--port) is not a whole number from 1 to 65535" in written
        assert len(written.splitlines()) == 1

    class Refusing(socket.socket):
        def bind(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(ports.socket, "socket", Refusing)
    assert "permission denied" in ports.cannot_listen("127.0.0.1", 80)


def test_the_launchers_processes_meet_on_the_loopback_interface(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    environment = Local().environment(0, 1234)
    assert environment["T2T_COORDINATOR"] == ("[::1]:1234" if SIX else "127.0.0.1:1234")
    assert "no_grpc_proxy" not in environment
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "intern")
    assert Local().environment(0, 1234)["no_grpc_proxy"] == "intern,localhost,127.0.0.1,::1"


def test_where_gloo_listens_is_told(monkeypatch, capsys):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 0))]
    monkeypatch.setattr(ports.socket, "getaddrinfo", lambda *args, **more: found)
    assert ports.own_names_address() == "192.0.2.7"
    monkeypatch.setattr("t2t.launch.launchers.local.run", lambda command, local: 0)
    assert Local().launch(["train"]) == 0
    assert "listens on 192.0.2.7" in capsys.readouterr().err
    assert Local(processes=2, gpus_per_process=1).launch(["train"]) == 0
    found[0] = (*found[0][:4], ("127.0.1.1", 0))
    assert Local().launch(["train"]) == 0
    assert capsys.readouterr().err == ""


LISTENING = """
import sys
from pathlib import Path
from t2t.distributed.start import initialise
initialise()
import jax
from jax.experimental import multihost_utils
import numpy as np
multihost_utils.process_allgather(np.ones(2))
for family in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            print("listens", family, fields[1], fields[9], flush=True)
import os
for fd in Path("/proc/self/fd").iterdir():
    try:
        print("owns", os.readlink(fd), flush=True)
    except OSError:
        pass
multihost_utils.process_allgather(np.ones(2))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's table of sockets")
def test_no_socket_of_a_local_launch_listens_beyond_the_loopback_interface():
    if ports.own_names_address():
        pytest.skip("this machine's own name leads to another interface, where Gloo listens; the launcher says so")
    code = f"import sys; from t2t.launch.launchers.local import Local, run; sys.exit(run([sys.executable, '-c', {LISTENING!r}], Local(devices_per_process=1)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [line.split()[1:] for line in done.stdout.splitlines()]
    owned = {line[1][8:-1] for line in lines if line[0] == "owns" and line[1].startswith("socket:[")}
    listening = {(line[1], line[2].partition(":")[0]) for line in lines if line[0] == "listens" and line[3] in owned}
    assert listening  # the coordinator's and Gloo's
    # 127.0.0.1 and ::1, as Linux writes them (proc(5)): words of four bytes in the machine's own order.
    assert listening <= {("tcp", "0100007F"), ("tcp6", "00000000000000000000000001000000")}
