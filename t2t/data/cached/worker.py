"""`python -m t2t.data.cached.worker`: a Beam worker process that writes shards. `parallel` starts it, and it ends with `parallel`."""

import logging
import os
import sys
import threading
import time


def main() -> None:
    """Run Beam's worker process, but without output. Beam's environment variables name the ports.

    The parent process reports errors of a shard. The worker exits when its parent ends: a killed parent cannot stop its
    workers, and they would continue to write.
    """
    parent = os.getppid()
    # Without a handler, the first warning would install one that prints all later messages to the terminal.
    logging.getLogger().addHandler(logging.NullHandler())
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    main()
