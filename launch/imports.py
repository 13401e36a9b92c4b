"""Code of the user's that registers tasks and recipes: modules by name, or files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from t2t.errors import UserError


def use(names: Iterable[str]) -> None:
    """Import each of --import's modules and files, once."""
    for name in names:
        load(name, option="--import")


def load(name: str, *, option: str) -> ModuleType:
    """Return the module of that name, or of that .py file. Raises UserError, naming the option, where there is none.

    An error inside the user's code is let through with its traceback: it is theirs to read.
    """
    if not name:
        raise UserError(f"{option} needs a module's name or a .py file")
    if not name.endswith(".py"):
        if "" not in sys.path:
            sys.path.insert(0, "")  # as `python -m` would: a module in the working directory
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            raise UserError(f"no module {name!r} ({option}); a file is named with its .py") from None
    path = Path(name).resolve()
    if not path.is_file():
        raise UserError(f"no file {name} ({option})")
    # A name of its own, so that a file called tasks.py hides no package; the same file twice is one module.
    known = f"t2t_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module
