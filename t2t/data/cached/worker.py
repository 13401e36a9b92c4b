"""`python -m t2t.data.cached.worker`: a process of Beam's that writes shards, started by `parallel` and ended with it."""

import logging
import os
import sys
import threading
import time


def main() -> None:
    """Do what Beam says over the ports that the environment names, as Beam's own worker process does, but silently.

    What goes wrong with a shard is told by the process that started this one. A worker does not outlive that: killed, it
    could not end the others, and they would write on.
    """
    parent = os.getppid()
    # Without any handler the first warning sets one up that brings all the rest to the terminal.
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
