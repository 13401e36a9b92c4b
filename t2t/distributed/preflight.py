"""Checks before the first step: all processes must have the same program, the same kind of machine and the same run directory."""

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
"""Environment variables that change the compiled program or the numerical results."""

PATIENCE = 60.0
"""Seconds after which a process prints that it waits for other processes."""

_passed = False


class AgreedError(UserError):
    """An error that all processes raise with the same message. Only process 0 prints it."""


def passed() -> bool:
    """Return whether this process has passed `preflight`. From then on, other processes no longer receive `report_mistake`."""
    return _passed


def facts(configuration: Any) -> dict[str, Any]:
    """Return the facts about this process that `preflight` compares, as JSON values. All except `host` and `process` must agree."""
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
    configuration: Any, directory: Path, log: Callable[[str], None] | None = None, *, seen_within: float = 10.0
) -> list[dict[str, Any]]:
    """Check that all processes agree and see the same run directory. Return the facts of each process. Must be called on all processes.

    configuration: configuration of the run; must be equal on all processes.
    directory:     run directory; created if it does not exist.
    seen_within:   seconds within which all processes must see a file that process 0 writes. Network file systems cache for some time that a file
                   does not exist.
    log:           called on process 0 with each line of the report; None prints the lines to standard error.

    With a single process, only the platform is checked.

    Raises AgreedError with the same message on all processes. The message names the host that differs and the difference, or the host that does
    not see the file of process 0, or the error that another process reported with `report_mistake`.
    """
    global _passed
    local = facts(configuration)
    if jax.process_count() == 1:
        _check_platform([local])
        return [local]
    with _Patience("preflight"):
        found = gather({"facts": local, "nonce": secrets.token_hex(8)})
        _raise_mistakes(found)
        everyone = [message["facts"] for message in found]
        _check_platform(everyone)
        _check_equal(everyone, configuration)
        _check_directory(directory, everyone, found[0]["nonce"], seen_within)
    _passed = True
    if jax.process_index() == 0:
        for line in table(everyone):
            (log or _print)(line)
    return everyone


def report_mistake(mistake: UserError) -> AgreedError:
    """Send an error of this process to the other processes, which are in `preflight`. Return the error that all of them raise.

    Call it instead of `preflight` if this process cannot reach `preflight`.
    """
    with _Patience("reporting an error"):
        found = gather({"mistake": str(mistake), "host": socket.gethostname()})
    try:
        _raise_mistakes(found)
    except AgreedError as agreed:
        return agreed
    raise AssertionError("the gathered messages contain this process's error")


def _raise_mistakes(found: Sequence[Mapping[str, Any]]) -> None:
    mistakes = {index: message for index, message in enumerate(found) if "mistake" in message}
    texts = list(dict.fromkeys(message["mistake"] for message in mistakes.values()))
    if len(mistakes) == len(found) and len(texts) == 1:
        raise AgreedError(texts[0])
    if mistakes:
        index, message = next(iter(mistakes.items()))
        more = f" (and {len(mistakes) - 1} more of {len(found)} processes)" if len(mistakes) > 1 else ""
        raise AgreedError(f"process {index} on host {message['host']}{more}: {message['mistake']}")


def _check_platform(everyone: Sequence[Mapping[str, Any]]) -> None:
    """Raise AgreedError if JAX runs on CPUs although JAX_PLATFORMS lists an accelerator first. Without its plugin, JAX silently uses the next entry."""
    for one in everyone:
        asked = one["JAX_PLATFORMS"].partition(",")[0]
        if asked in ("cuda", "rocm", "gpu", "tpu") and one["platform"] == "cpu":
            raise AgreedError(
                f"preflight: host {one['host']} (process {one['process']}) has no {asked} device that JAX can use, only {one['local devices']}, but"
                f" JAX_PLATFORMS={one['JAX_PLATFORMS']} requires one. Install JAX for {asked}: {how_to_install('tpu' if asked == 'tpu' else 'gpu')}"
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
            f"preflight: {'; '.join(wrong)}. Nothing was started: all {len(everyone)} processes must agree."
        )


def _differences(
    everyone: Sequence[Mapping[str, Any]], usual: str, first: Mapping[str, Any], configuration: Any
) -> str:
    """Return the values in which two configurations differ, as text. All processes call this, because all have the same facts."""
    sent = gather(config.to_json(configuration))
    usual_process = next(one["process"] for one in everyone if one["configuration"] == usual)
    lines = config.json_differences(sent[usual_process], sent[first["process"]])
    shown = "; ".join(lines[:5]) + (f" and {len(lines) - 5} more" if len(lines) > 5 else "")
    return f"a different configuration ({shown})"


def _check_directory(directory: Path, everyone: Sequence[Mapping[str, Any]], nonce: str, seen_within: float) -> None:
    """Check that all processes see a file that process 0 writes. The file is deleted before any process continues."""
    probe = directory / f".preflight-{nonce}"
    failure = ""
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            probe.write_text(nonce)
        except OSError as error:
            failure = f"{directory} (--dir) is not writable: {error.strerror}"
    failure = gather(failure)[0]
    seen = not failure and _sees(probe, seen_within)
    replies = gather({"seen": seen, "path": str(directory.absolute())})
    if jax.process_index() == 0 and not failure:
        probe.unlink()
    gather(None)  # wait until the file is deleted, so that no process takes it for a file of the run
    if failure:
        raise AgreedError(f"host {everyone[0]['host']} (process 0): {failure}")
    without = [one for one, reply in zip(everyone, replies, strict=True) if not reply["seen"]]
    if without:
        first = without[0]
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise AgreedError(
            f"preflight: host {first['host']} (process {first['process']}{more}) does not see in {replies[first['process']]['path']} (--dir)"
            f" the file that process 0 on host {everyone[0]['host']} wrote in {replies[0]['path']}. All hosts must share the run directory."
        )


def _sees(probe: Path, within: float) -> bool:
    limit = time.monotonic() + within
    while True:
        try:
            os.listdir(probe.parent)  # asks the file server; checking only the file may use a cached answer
            if probe.is_file():
                return True
        except OSError:
            pass
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)


def table(everyone: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of the report: the common facts, then one line for each host."""
    one = everyone[0]
    lines = [
        f"preflight: {one['processes']} processes, {one['devices']} devices, {one['local devices']} each; python {one['python']}, jax {one['jax']}, "
        f"t2t {one['t2t']}, configuration {one['configuration']}; all processes see the run directory"
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
    # The dump directory does not change the program, and each host may have its own.
    return " ".join(sorted(word for word in words if not word.startswith("--xla_dump_to")))


def _code() -> str:
    """Return a short hash of this package's files. A host with a different checkout can have the same version number."""
    root = Path(t2t.__file__).parent
    digest = hashlib.sha256()
    # In a checkout, models, tasks and launch are symbolic links.
    folders = [root, *(path for path in root.iterdir() if path.is_symlink())]
    for path in sorted({path for folder in folders for path in folder.rglob("*.py")}):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Patience:
    """Context manager that prints a message if it stays open longer than `PATIENCE`."""

    def __init__(self, what: str) -> None:
        self._timer = threading.Timer(PATIENCE, self._report, [what])
        self._timer.daemon = True

    def _report(self, what: str) -> None:
        _print(
            f"{what}: process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()} has waited {PATIENCE:.0f} s for the"
            " other processes; look at the output of the processes that print nothing"
        )

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
