"""RUN/lock: allow only one training at a time in a run directory, also if several machines share the directory.

Process 0 of a training holds RUN/lock while it trains. The file names the holder. Three signs show whether the holder is alive:

- `flock` on the file. The system releases it when the process ends, in any way. Most network file systems apply it across machines, some do not.
- On the same machine: the process id of the holder and the start time of that process.
- On another machine: the modification time of the file, which the holder updates every `BEAT` seconds. If it does not for `STALE` seconds, by the
  clock of the file server, the holder counts as dead.

A holder ends its training at once if the file is deleted or has another holder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import jax

from t2t.distributed.end import leave
from t2t.distributed.gather import gather
from t2t.distributed.preflight import AgreedError
from t2t.errors import Failure, UserError
from t2t.json_files import expect, read_json
from t2t.train.run import LOCK, make_directory

BEAT = 5.0
"""Seconds between two heartbeats."""
STALE = 60.0
"""Seconds without a heartbeat after which a holder on another machine counts as dead."""
SETTLE = 1.0
"""Seconds after which a lock taken without `flock` is checked again: another process may have taken it at the same moment."""

_UNSUPPORTED = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The holder of a run directory, as stored in RUN/lock.

    host, pid:  the machine and the process.
    since:      when it took the lock, for messages.
    boot:       boot id: identifies the machine and its last start.
    namespace:  the namespace of process ids. A container has its own.
    began:      start time of the process, in ticks of the machine; 0 if unknown.
    job, start: the SLURM job, and how often it was requeued.
    inode:      inode of the lock file. A copied directory has another one.
    nonce:      random value that distinguishes any two holders.
    """

    host: str
    pid: int
    since: str
    boot: str
    namespace: str
    began: int
    job: str
    start: int
    inode: int
    nonce: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Claim:
    """Holds a run directory for one training, from `take` to `release`."""

    def __init__(self, directory: Path, lost: Callable[[str], None] | None = None) -> None:
        """Prepare to take a directory. lost: called in a thread, with the reason, if the lock is lost; None ends the process."""
        self._directory, self._path = directory, directory / LOCK
        self._lost = lost or _end_process
        self._file = -1
        self._own: Holder | None = None
        self._released = threading.Event()
        self._beat: threading.Thread | None = None

    def take(self) -> None:
        """Take the directory, and create it if it is missing. Raises UserError, which names the holder, if another training holds it."""
        make_directory(self._directory)
        while not self._try():
            pass
        os.register_at_fork(after_in_child=self._forget)  # a forked process must not hold it
        self._beat = threading.Thread(target=self._renew, name="lock", daemon=True)
        self._beat.start()

    def release(self) -> None:
        """Release the directory."""
        self._released.set()
        if self._beat is not None:
            self._beat.join()
        if self._file >= 0:
            with contextlib.suppress(OSError):
                if self._is_ours():
                    self._path.unlink()
            os.close(self._file)
            self._file = -1

    def _try(self) -> bool:
        """Try to take the directory. Return False if the file was deleted in the meantime: try again."""
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked = _flock(self._file)
            status = os.fstat(self._file)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == status.st_ino:
                    self._judge(locked)
                    self._write(locked)
                    return True
        except BaseException:
            os.close(self._file)
            self._file = -1
            raise
        os.close(self._file)
        self._file = -1
        return False

    def _judge(self, locked: bool | None) -> None:
        """Raise UserError unless the holder in the file is dead. locked: whether this process has the `flock`; None if unsupported."""
        other = _read(self._path)
        if other is None:
            if locked is False:
                raise self._refusal("another process")
            return
        alive = _is_alive(other, os.fstat(self._file).st_ino, locked)
        if alive is None:
            alive = self._seems_alive()
        if alive:
            raise self._refusal(str(other))

    def _seems_alive(self) -> bool:
        """Wait for a heartbeat of a holder on another machine, until it counts as dead."""
        first = _changed(self._path)
        left = STALE - (self._now() - first)
        if left > 0:
            message = f"{self._directory} (--dir): waiting up to {left:.0f} s for a heartbeat of {_read(self._path)}"
            print(message, file=sys.stderr, flush=True)
        limit = time.monotonic() + left
        while time.monotonic() < limit:
            time.sleep(BEAT / 5)
            if _changed(self._path) != first:
                return True
        return False

    def _now(self) -> float:
        """Return the time by the clock of the file system."""
        probe = self._directory / f".{LOCK}-{secrets.token_hex(8)}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink()

    def _write(self, locked: bool | None) -> None:
        self._own = _me(os.fstat(self._file).st_ino)
        content = json.dumps(asdict(self._own)).encode()
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, content, 0)
        os.fsync(self._file)
        if locked is not True:
            time.sleep(SETTLE)
            if not self._is_ours():
                raise self._refusal(str(_read(self._path) or "another process"))

    def _refusal(self, who: str) -> UserError:
        return UserError(
            f"{self._directory} (--dir) is in use by {who}, and two trainings cannot share a directory."
            " Use another --dir, or wait until that training ends."
        )

    def _is_ours(self) -> bool:
        found = _read(self._path)
        return found is not None and self._own is not None and found.nonce == self._own.nonce

    def _renew(self) -> None:
        good = time.monotonic()
        while not self._released.wait(BEAT):
            try:
                if not self._is_ours():
                    now = _read(self._path)
                    self._lost(f"{self._path} {f'is now held by {now}' if now else 'was deleted'}")
                    return
                os.utime(self._file)
                good = time.monotonic()
            except OSError as error:
                if time.monotonic() - good > STALE:
                    self._lost(f"{self._path} could not be updated for {STALE:.0f} s: {error.strerror}")
                    return

    def _forget(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


@contextlib.contextmanager
def claimed_on_all(directory: Path) -> Iterator[None]:
    """Hold the run directory for this training inside the context. Process 0 takes it for all. Call this on all processes.

    Raises UserError on all, with the same text, if another training holds it, and Failure if the file system does not work.
    """
    claim, refused, broken = Claim(directory), None, None
    if jax.process_index() == 0:
        try:
            claim.take()
        except UserError as error:
            refused = str(error)
        except OSError as error:
            broken, refused = error, f"{directory / LOCK}: {error.strerror}"
    if message := gather(refused)[0]:
        raise Failure(message) if broken else AgreedError(message)
    try:
        yield
    finally:
        claim.release()


def _flock(file: int) -> bool | None:
    """Return whether this process has the lock now; None if the file system does not support it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return None
        raise
    return True


def _is_alive(other: Holder, inode: int, locked: bool | None) -> bool | None:
    """Return whether a holder is alive; None if only its heartbeat can show it."""
    me = _me(inode)
    if other.job and other.job == me.job and other.start < me.start:
        return False  # SLURM ends a job before it requeues it
    if other.boot != me.boot:
        return None
    if locked is False:
        return True
    if other.inode != inode:
        return False  # the directory is a copy
    if other.namespace == me.namespace and (locked is None or other.began):
        return _is_running(other)
    return False if locked else None


def _is_running(other: Holder) -> bool:
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    state, began = _process(other.pid)
    return state not in "ZX" and began == other.began


def _me(inode: int) -> Holder:
    started = os.environ.get("SLURM_RESTART_COUNT", "")
    return Holder(
        host=socket.gethostname(),
        pid=os.getpid(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        boot=_text(Path("/proc/sys/kernel/random/boot_id")) or socket.gethostname(),
        namespace=_link(Path("/proc/self/ns/pid")),
        began=_process(os.getpid())[1],
        job=os.environ.get("SLURM_JOB_ID", ""),
        start=int(started) if started.isdigit() else 0,
        inode=inode,
        nonce=secrets.token_hex(8),
    )


def _process(pid: int) -> tuple[str, int]:
    """Return the state and the start time of a process (proc(5)); ("?", 0) if unknown."""
    after = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (after[0], int(after[19])) if len(after) > 19 else ("?", 0)


def _read(path: Path) -> Holder | None:
    """Return the holder in the file; None if the file is missing or has no holder yet."""
    try:
        data = read_json(path)
        types = {"int": int, "str": str}
        values = {f.name: expect(data.get(f.name), types[str(f.type)], f"{path}: {f.name}") for f in fields(Holder)}
        return Holder(**values)
    except (FileNotFoundError, UserError):
        return None


def _changed(path: Path) -> float:
    # Opening the file asks the file server. A plain `stat` may return a cached time.
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _end_process(reason: str) -> None:
    print(f"error: {reason}: another training may write here, so this one ends", file=sys.stderr, flush=True)
    leave(1)
