"""End a process of a multi-process run. Does not import JAX, because it is loaded before everything else."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
import time
from typing import NoReturn

from t2t.distributed.environment import LAUNCHER

_PR_SET_PDEATHSIG = 1


def leave(code: int) -> NoReturn:
    """End this process immediately, after flushing its output.

    A failed process of a multi-process run must not exit normally: JAX's exit handler would wait for the other processes, which wait for this one.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # the reader has closed the stream
            stream.flush()
    os._exit(code)


def several() -> bool:
    """Return whether this process is one of several connected processes. Does not import JAX."""
    # If another thread calls this, JAX may be only partially imported.
    known = getattr(getattr(sys.modules.get("jax"), "distributed", None), "is_initialized", None)
    return known is not None and known()


def end_with_launcher() -> None:
    """Make this process end when the launcher that started it ends, even if the launcher is killed with SIGKILL.

    On Linux, the kernel sends the signal. On other systems, a thread checks once a second. Does nothing without a launcher on this machine.
    """
    value = os.environ.pop(LAUNCHER, "")  # child processes must not inherit it
    if not value.isdigit():
        return
    parent = int(value)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the launcher ended before the call
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
