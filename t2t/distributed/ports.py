"""Addresses and ports of this machine that a process can listen at. Imports no JAX."""

from __future__ import annotations

import errno
import ipaddress
import socket


def loopback() -> str:
    """Return the loopback interface's address: IPv6's where there is one.

    gRPC, which JAX's coordinator is made of, listens at IPv4's through a socket of both kinds where there is IPv6; at this one as it is.
    """
    return "127.0.0.1" if cannot_listen("::1", 0) else "::1"


def own_address(host: str) -> str | None:
    """Return the one address of this machine to listen at where others know it as `host`; None for all of them.

    host: a name or a number. A name is left to all interfaces, "localhost" excepted: on many machines their own name leads to the loopback
    interface, where nobody else would find them.
    """
    if host == "localhost":
        return host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if _refused(host, 0) else host  # an address that a router translates is not ours


def cannot_listen(host: str, port: int) -> str:
    """Return why nothing can listen at a port here, "" where something can. host: an address, a name of this machine, or "" for all interfaces."""
    for each in [host] if host else ["0.0.0.0", "::"]:
        error = _refused(each, port)
        if error is None or (each == "::" and not host and error.errno != errno.EADDRINUSE):  # a machine without IPv6
            continue
        if error.errno == errno.EADDRINUSE:
            return "another program has it (address already in use)"
        if error.errno == errno.EACCES:
            return "this user may not use it (permission denied), as most ports below 1024"
        return str(error.strerror or error)
    return ""


def own_names_address() -> str:
    """Return the address that this machine's own name leads to, "" where that is the loopback interface's or none."""
    try:
        address = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return ""
    return "" if ipaddress.ip_address(str(address).partition("%")[0]).is_loopback else str(address)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is free at an address for now."""
    with _socket(host) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _refused(host: str, port: int) -> OSError | None:
    try:
        with _socket(host) as probe:
            probe.bind((host, port))
            if port:
                probe.listen()
    except OSError as error:
        return error
    return None


def _socket(host: str) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a run that has just ended still count
    if ":" in host:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return made
