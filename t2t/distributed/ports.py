"""Addresses and ports of this machine that a process can listen on. Does not import JAX."""

from __future__ import annotations

import errno
import ipaddress
import socket


def loopback() -> str:
    """Return the address of the loopback interface: the IPv6 address if the machine has IPv6.

    JAX's coordinator uses gRPC. With IPv6, gRPC listens on an IPv4 address through a dual-stack socket, but on the IPv6 address directly.
    """
    return "127.0.0.1" if cannot_listen("::1", 0) else "::1"


def own_address(host: str) -> str | None:
    """Return the address to listen on if other processes connect to `host`; None for all interfaces.

    host: a name or an IP address. For a name other than "localhost", the result is None: on many machines their own name resolves to the
    loopback interface, which other hosts cannot reach.
    """
    if host == "localhost":
        return host
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None
    return None if _bind_error(host, 0) else host  # with NAT, the address is not an address of this machine


def cannot_listen(host: str, port: int) -> str:
    """Return why no process can listen on a port of this machine; "" if it is possible.

    host: an address, a name of this machine, or "" for all interfaces.
    """
    for each in [host] if host else ["0.0.0.0", "::"]:
        error = _bind_error(each, port)
        if error is None or (each == "::" and not host and error.errno != errno.EADDRINUSE):  # a machine without IPv6
            continue
        if error.errno == errno.EADDRINUSE:
            return "another program uses it (address already in use)"
        if error.errno == errno.EACCES:
            return "this user cannot use it (permission denied), like most ports below 1024"
        return str(error.strerror or error)
    return ""


def own_names_address() -> str:
    """Return the address that this machine's name resolves to; "" if it does not resolve or is a loopback address."""
    try:
        address = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return ""
    return "" if ipaddress.ip_address(str(address).partition("%")[0]).is_loopback else str(address)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that is currently free on an address."""
    with _socket(host) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _bind_error(host: str, port: int) -> OSError | None:
    try:
        with _socket(host) as probe:
            probe.bind((host, port))
            if port:
                probe.listen()
    except OSError as error:
        return error
    return None


def _socket(host: str) -> socket.socket:
    result = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    # Without it, connections of a run that has just ended would block the port.
    result.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if ":" in host:
        result.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return result
