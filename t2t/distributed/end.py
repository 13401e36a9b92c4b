"""Ending a process that is one of several. Imports no JAX: it is loaded first of all."""

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
    """End this process now, with what it has printed written out.

    A process of several that has failed must not end the usual way: JAX's end would wait for the others, which wait for this one.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # whoever read it is gone
            stream.flush()
    os._exit(code)


def several() -> bool:
    """Return whether this process is one of several that have found each other. Loads no JAX."""
    # JAX may be half imported where a thread asks.
    known = getattr(getattr(sys.modules.get("jax"), "distributed", None), "is_initialized", None)
    return known is not None and known()


def end_with_launcher() -> None:
    """See to it that this process does not outlive the launcher that started it, even one killed with SIGKILL.

    Linux sends the signal itself; elsewhere a thread looks once a second. Without a launcher on this machine nothing is done.
    """
    value = os.environ.pop(LAUNCHER, "")  # it is no matter of the processes that this one starts
    if not value.isdigit():
        return
    parent = int(value)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
