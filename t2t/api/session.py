"""Set up a process before the import of JAX and TensorFlow: the compilation cache, log levels and multi-process setup."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from t2t.api.quiet import hush_tensorflow

_prepared = False


def prepare() -> None:
    """Set up this process for use from Python, once. Raises UserError if the environment describes an invalid set of processes."""
    global _prepared
    if _prepared:
        return
    set_environment()
    from t2t.distributed.start import initialise

    initialise()
    _prepared = True


def set_environment() -> None:
    """Set the environment variables that JAX and TensorFlow read at import. Variables that the user has set do not change."""
    use_compilation_cache()
    hush_tensorflow()


def cache_directory() -> Path:
    """Return the cache directory: T2T_CACHE, or t2t in the user's cache directory. Its files can be deleted."""
    return Path(os.environ.get("T2T_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2t")


def use_compilation_cache() -> None:
    """Enable the persistent compilation cache of XLA. Skip this if the user has configured it, or if JAX is already imported."""
    if {"JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"} & set(os.environ) or "jax" in sys.modules:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache_directory() / "xla")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
