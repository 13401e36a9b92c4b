"""Cache directory for files that are expensive to create."""

from __future__ import annotations

import os
from pathlib import Path

from t2t.errors import UserError


def cache_directory() -> Path:
    """Return the cache directory; create it if it is missing: $T2T_CACHE, else $XDG_CACHE_HOME/t2t, else ~/.cache/t2t.

    Raises:
      UserError: it cannot be created or is not writable.
    """
    t2t_cache, xdg_cache = os.environ.get("T2T_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if t2t_cache:
        path, origin = Path(t2t_cache), "T2T_CACHE"
    elif xdg_cache:
        path, origin = Path(xdg_cache) / "t2t", "XDG_CACHE_HOME"
    else:
        path, origin = Path.home() / ".cache" / "t2t", "the home directory; set T2T_CACHE for another"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cache directory {str(path)!r} (from {origin}) cannot be created: {error.strerror}.") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise UserError(f"cache directory {str(path)!r} (from {origin}) is not writable.")
    return path
