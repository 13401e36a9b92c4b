"""Before the first step: do all processes see the same program, the same machine and the same run directory?"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import t2t
from t2t import config
from t2t.distributed.gather import gather
from t2t.errors import UserError
from t2t.installing import how_to_install

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow", "numpy")
SETTINGS = (
    "XLA_FLAGS",
    "LIBTPU_INIT_ARGS",
    "JAX_ENABLE_X64",
    "JAX_DEFAULT_PRNG_IMPL",
    "JAX_DEFAULT_MATMUL_PRECISION",
    "JAX_THREEFRY_PARTITIONABLE",
)
"""Environment variables that make other programs, or other numbers, of the same code."""

PATIENCE = 60.0
"""Seconds after which a process says that it waits for others."""


_passed = False


class AgreedError(UserError):
    """A mistake that every process knows of, and raises alike: process 0 tells it for all."""


def passed() -> bool:
    """Return whether this process has been through `preflight`: from then on others no longer listen to `report_mistake`."""
    return _passed


def facts(configuration: Any) -> dict[str, Any]:
    """Return what this process sees, as JSON values; all but `host`, `process` and `process count` must be the same everywhere."""
    devices = Counter(device.device_kind for device in jax.local_devices())
    return {
        "host": socket.gethostname(),
        "process": jax.process_index(),
        "processes": jax.process_count(),
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
        "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", ""),
        "local devices": ", ".join(f"{count} {kind}" for kind, count in devices.items()),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "t2t": f"{t2t.__version__}+{_code()}",
        "configuration": config.fingerprint(configuration),
        **{name: _setting(name) for name in SETTINGS},
    }


def preflight(
    configuration: Any, directory: Path, say: Callable[[str], None] | None = None, *, seen_within: float = 10.0
) -> list[dict[str, Any]]:
    """Check that all processes agree and reach one run directory; return the facts of each. To be called on all processes.

    configuration: what is to be run, to be equal on all processes.
    directory:     the run's directory; it is made where there is none.
    seen_within:   seconds within which all must see a file that process 0 has written; network file systems remember for a while that it was
                   not there.
    say:           gets the report, a line at a time, on process 0; None prints it to standard error.

    Raises AgreedError, on all processes and with the same text, naming the host that differs and what in, or that does not see what
    process 0 wrote in the run directory, or the mistake that another process reported (`report_mistake`). One process alone agrees with itself.
    """
    global _passed
    own = facts(configuration)
    if jax.process_count() == 1:
        _check_platform([own])
        return [own]
    with _Patience("preflight"):
        found = gather({"facts": own, "nonce": secrets.token_hex(8)})
        _raise_mistakes(found)
        everyone = [message["facts"] for message in found]
        _check_platform(everyone)
        _check_equal(everyone, configuration)
        _check_directory(directory, everyone, found[0]["nonce"], seen_within)
    _passed = True
    if jax.process_index() == 0:
        for line in table(everyone):
            (say or _print)(line)
    return everyone


def report_mistake(mistake: UserError) -> AgreedError:
    """Tell the other processes, on their way to `preflight`, of a mistake found here; return what all of them raise.

    To be called, instead of `preflight`, by a process that does not get there.
    """
    with _Patience("telling of a mistake"):
        found = gather({"mistake": str(mistake), "host": socket.gethostname()})
    try:
        _raise_mistakes(found)
    except AgreedError as agreed:
        return agreed
    raise AssertionError("our own mistake is among those gathered")


def _raise_mistakes(found: Sequence[Mapping[str, Any]]) -> None:
    told = {index: message for index, message in enumerate(found) if "mistake" in message}
    texts = list(dict.fromkeys(message["mistake"] for message in told.values()))
    if len(told) == len(found) and len(texts) == 1:
        raise AgreedError(texts[0])
    if told:
        index, message = next(iter(told.items()))
        more = f" (and {len(told) - 1} more of {len(found)} processes)" if len(told) > 1 else ""
        raise AgreedError(f"process {index} on host {message['host']}{more}: {message['mistake']}")


def _check_platform(everyone: Sequence[Mapping[str, Any]]) -> None:
    """Refuse CPUs where JAX_PLATFORMS asks for other devices first: JAX takes what is next in it where a plugin is not installed."""
    for one in everyone:
        asked = one["JAX_PLATFORMS"].partition(",")[0]
        if asked in ("cuda", "rocm", "gpu", "tpu") and one["platform"] == "cpu":
            raise AgreedError(
                f"preflight: host {one['host']} (process {one['process']}) has no {asked} device that JAX can use, only {one['local devices']}, and"
                f" JAX_PLATFORMS={one['JAX_PLATFORMS']} asks for one. It needs JAX for {asked}: {how_to_install('tpu' if asked == 'tpu' else 'gpu')}"
            )


def _check_equal(everyone: Sequence[Mapping[str, Any]], configuration: Any) -> None:
    wrong = []
    for name in everyone[0]:
        if name in ("host", "process"):
            continue
        counts = Counter(str(one[name]) for one in everyone)
        if len(counts) == 1:
            continue
        usual = counts.most_common(1)[0][0]
        others = [one for one in everyone if str(one[name]) != usual]
        first = others[0]
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        detail = f"{name} {first[name] or '(unset)'!s} instead of {usual or '(unset)'}"
        if name == "configuration":
            detail = _differences(everyone, usual, first, configuration)
        wrong.append(f"host {first['host']} (process {first['process']}{more}) has {detail}")
    if wrong:
        raise AgreedError(
            f"preflight: {'; '.join(wrong)}. Nothing was started: all {len(everyone)} processes must have the same."
        )


def _differences(
    everyone: Sequence[Mapping[str, Any]], usual: str, first: Mapping[str, Any], configuration: Any
) -> str:
    """Say in which values two configurations differ. All processes come here, since all have the same facts."""
    sent = gather(config.to_json(configuration))
    usual_process = next(one["process"] for one in everyone if one["configuration"] == usual)
    lines = config.json_differences(sent[usual_process], sent[first["process"]])
    shown = "; ".join(lines[:5]) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
    return f"another configuration ({shown})"


def _check_directory(directory: Path, everyone: Sequence[Mapping[str, Any]], nonce: str, seen_within: float) -> None:
    """Process 0 writes a file, all look for it; it is gone again before anyone goes on."""
    probe = directory / f".preflight-{nonce}"
    trouble = ""
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            probe.write_text(nonce)
        except OSError as error:
            trouble = f"{directory} (--dir) cannot be written to: {error.strerror}"
    written = gather(trouble)[0]
    seen = not written and _sees(probe, seen_within)
    sights = gather({"seen": seen, "path": str(directory.absolute())})
    if jax.process_index() == 0 and not written:
        probe.unlink()
    gather(None)  # nobody takes the file for a part of the run
    if written:
        raise AgreedError(f"host {everyone[0]['host']} (process 0): {written}")
    blind = [one for one, sight in zip(everyone, sights, strict=True) if not sight["seen"]]
    if blind:
        more = f" and {len(blind) - 1} more" if len(blind) > 1 else ""
        raise AgreedError(
            f"preflight: host {blind[0]['host']} (process {blind[0]['process']}{more}) does not see in {sights[blind[0]['process']]['path']} (--dir) what process 0 on host "
            f"{everyone[0]['host']} wrote in {sights[0]['path']}. The run directory must be one that all hosts share."
        )


def _sees(probe: Path, within: float) -> bool:
    limit = time.monotonic() + within
    while True:
        try:
            os.listdir(
                probe.parent
            )  # asks the file server anew, where a look at the file alone may be answered from memory
            if probe.is_file():
                return True
        except OSError:
            pass
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)


def table(everyone: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the report: what all have in common, then a line for each run of processes on one host."""
    one = everyone[0]
    lines = [
        f"preflight: {one['processes']} processes, {one['devices']} devices, {one['local devices']} each; python {one['python']}, jax {one['jax']}, "
        f"t2t {one['t2t']}, configuration {one['configuration']}; all reach the run directory"
    ]
    groups: list[list[Mapping[str, Any]]] = []
    for it in everyone:
        if groups and groups[-1][0]["host"] == it["host"]:
            groups[-1].append(it)
        else:
            groups.append([it])
    for group in groups:
        first, last = group[0]["process"], group[-1]["process"]
        lines.append(
            f"preflight: {f'process {first}' if first == last else f'processes {first} to {last}'} on {group[0]['host']}"
        )
    return lines


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _setting(name: str) -> str:
    words = os.environ.get(name, "").split()
    # Where XLA dumps to changes no program, and may well be a place of each host's own.
    return " ".join(sorted(word for word in words if not word.startswith("--xla_dump_to")))


def _code() -> str:
    """Return a short hash of this package's own files: a host with another checkout has the same version."""
    root = Path(t2t.__file__).parent
    digest = hashlib.sha256()
    folders = [
        root,
        *(path for path in root.iterdir() if path.is_symlink()),
    ]  # models, tasks and launch, where this is a checkout
    for path in sorted({path for folder in folders for path in folder.rglob("*.py")}):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Patience:
    """While open for long, says once that it waits for other processes."""

    def __init__(self, what: str) -> None:
        self._timer = threading.Timer(PATIENCE, self._tell, [what])
        self._timer.daemon = True

    def _tell(self, what: str) -> None:
        _print(
            f"{what}: process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} has waited {PATIENCE:.0f} s for the"
            " others; look at the output of those that say nothing"
        )

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
