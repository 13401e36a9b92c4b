"""Importing TensorFlow without the lines it writes before its own logging, and our wish for silence, are set up."""

from __future__ import annotations

import os
import re
import sys
import tempfile

_NOISE = re.compile(
    r"^(WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} \d\d:\d\d:|I0000 |E0000 .*cuInit)"
)


def import_tensorflow() -> None:
    """Import TensorFlow; of what it writes to standard error meanwhile, only what is no such line comes through.

    The file descriptor is redirected, since the lines come from compiled code that no setting reaches.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "0"
    )  # it only reads data here: the same numbers everywhere are worth more
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines(keepends=True):
                if not _NOISE.match(line):
                    sys.stderr.write(line)


def register_tasks() -> None:
    """Register the tasks that come with the stack."""
    import_tensorflow()
    import t2t.tasks  # noqa: F401
