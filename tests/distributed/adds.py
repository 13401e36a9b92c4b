"""A command of its own for `t2t launch local`'s machinery: processes that add something up together, then do as told.

python -m tests.distributed.adds WHAT [DIRECTORY]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from t2t.distributed.end import end_with_launcher, leave, several
from t2t.distributed.preflight import preflight
from t2t.distributed.start import initialise


def main(what: str, directory: str) -> int:
    end_with_launcher()
    here = initialise()
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    total = int(multihost_utils.process_allgather(jnp.array([jax.process_index() + 1])).sum())
    print(
        f"process {jax.process_index()} of {jax.process_count()} sees {jax.local_device_count()} of {jax.device_count()}, sum {total}"
    )
    print("to stderr", file=sys.stderr)
    Path(directory, f"pid{here.process}").write_text(str(os.getpid()))
    if what == "child" and here.process == 0:
        child = subprocess.Popen(["sleep", "300"])
        Path(directory, "child").write_text(str(child.pid))
    if what == "raise" and here.process == 1:
        raise ValueError("what went wrong")
    if what in ("wait", "child"):
        stopped = []
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda n, f: stopped.append(n))
        Path(directory, f"ready{here.process}").touch()
        while not stopped:
            time.sleep(0.02)
        print(f"got {signal.Signals(stopped[0]).name}")
        return 75
    if what == "preflight":
        everyone = preflight({"steps": 10}, Path(directory, "run"))
        print(f"{len(everyone)} agree")
    if what == "once" and here.process == 1 and not Path(directory, "done").exists():
        Path(directory, "done").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "once":
        multihost_utils.sync_global_devices("end")
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1], sys.argv[2])
    except Exception:
        import traceback

        traceback.print_exc()
        leave(1)
    if several() and code in (1, 2):
        leave(code)
    sys.exit(code)
