"""The program that each process runs in multi-process tests: connect, compute a sum over all processes, then run the given test.

python tests/distributed/together.py DIRECTORY [survive | preflight]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from t2t.distributed.end import end_with_launcher, leave
from t2t.distributed.gather import gather
from t2t.distributed.preflight import AgreedError, preflight, report_mistake
from t2t.distributed.start import initialise
from t2t.errors import UserError


def main(directory: Path, what: str) -> None:
    end_with_launcher()
    initialise()
    import jax
    import jax.numpy as jnp
    from jax.experimental import multihost_utils

    me = jax.process_index()
    total = int(multihost_utils.process_allgather(jnp.array([me + 1])).sum())
    print(
        f"process {me} of {jax.process_count()}: {jax.local_device_count()} of {jax.device_count()} devices, sum {total}"
    )
    if what == "survive":
        began = directory / "began"
        if me == 1 and not began.exists():
            began.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        multihost_utils.sync_global_devices("end")
        print("survived")
    if what == "preflight":
        _preflights(me, directory)


def _preflights(me: int, directory: Path) -> None:
    """Run several preflights in sequence and print the result of each."""

    def attempt(name: str, configuration: object, place: Path, mistake: UserError | None = None) -> None:
        try:
            if mistake is not None:
                raise report_mistake(mistake)
            everyone = preflight(configuration, place, lambda line: print(f"{name}: {line}"), seen_within=0.5)
            print(f"{name}: {[one['process'] for one in everyone]} agree")
        except AgreedError as error:
            print(f"{name}: {error}")

    long = "x" * 10_000  # longer than one message chunk
    attempt("same", {"steps": 10, "text": long}, directory / "run")
    attempt("configuration", {"steps": 10 + (me == 2), "text": long}, directory / "run")
    os.environ["XLA_FLAGS"] = f"--xla_dump_to=/tmp/{me} --xla_a=1" + " --xla_b=2" * (me == 1)
    attempt("settings", {}, directory / "run")
    os.environ["XLA_FLAGS"] = f"--xla_dump_to=/tmp/{me} --xla_a=1"
    attempt("directory", {}, directory / f"run{me // 2}")
    blocked = directory / "file"
    blocked.touch()
    gather(None)
    attempt("unwritable", {}, blocked / "run")
    attempt("mistake", {}, directory / "run", UserError("no such file") if me == 1 else None)
    attempt("everyone's", {}, directory / "run", UserError("no such option"))
    os.environ["JAX_PLATFORMS"] = "cpu,cuda" if me == 0 else "cuda,cpu"
    attempt("platform", {}, directory / "run")
    os.environ["JAX_PLATFORMS"] = "cpu"
    attempt("again", {}, directory / "run")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
        leave(1)
