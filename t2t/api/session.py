"""What a program needs before JAX and TensorFlow are imported: a cache of compiled programs, silence, and the other processes of a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from t2t.api.quiet import hush_tensorflow

_prepared = False


def prepare() -> None:
    """Set up this process for work from Python, once. Raises UserError where the environment describes other processes that cannot be."""
    global _prepared
    if _prepared:
        return
    set_environment()
    from t2t.distributed.start import initialise

    initialise()
    _prepared = True


def set_environment() -> None:
    """Set what JAX and TensorFlow read from the environment when they are imported; what the user has set stays."""
    use_compilation_cache()
    hush_tensorflow()


def cache_directory() -> Path:
    """Return the directory for what can be made again: T2T_CACHE, or t2t in the user's cache."""
    return Path(os.environ.get("T2T_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t2t")


def use_compilation_cache() -> None:
    """Let XLA keep compiled programs between runs, unless the user has chosen where or that it doesn't, or has imported JAX, which reads this then."""
    if {"JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"} & set(os.environ) or "jax" in sys.modules:
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache_directory() / "xla")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
