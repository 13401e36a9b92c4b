"""Code of the user's that registers tasks or has recipes: modules by name, or files."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from t2t.errors import UserError, nearest

_used: dict[str, None] = {}


def use(specs: Iterable[str]) -> None:
    """Import each of --import's modules and files, once."""
    for spec in specs:
        load(spec)
        _used[str(Path(spec).expanduser().resolve()) if spec.endswith(".py") else spec] = None


def used() -> tuple[str, ...]:
    """Return what `use` has imported, for another process to import too: modules' names, and files' whole paths."""
    return tuple(_used)


def load(spec: str, *, option: str = "--import") -> ModuleType:
    """Import `my_module`, `my.module` or `path/to/my_tasks.py` and return it; a file is imported once however often it is asked for.

    Modules are also looked for in the current directory.

    option: where the name came from, for errors.

    Raises:
      UserError: nothing is there, or importing it fails; the error and its line are quoted.
    """
    return _file(spec, option) if spec.endswith(".py") else _module(spec, option)


def _file(spec: str, option: str) -> ModuleType:
    path = Path(spec).expanduser()
    if not path.is_file():
        beside = [str(path.parent / found.name) for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"{option} {spec!r}: no such file.{nearest(spec, beside)}")
    path = path.resolve()
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failure(f"{option} {spec!r}", error) from error
    return module


def _module(spec: str, option: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(spec)
    except ModuleNotFoundError as error:
        if error.name is None or not (spec == error.name or spec.startswith(error.name + ".")):
            raise _failure(f"{option} {spec!r}", error) from error
        files = [found.stem for found in Path.cwd().glob("*.py")]
        raise UserError(f"{option} {spec!r}: no such module, installed or in {here}.{nearest(spec, files)}") from None
    except Exception as error:
        raise _failure(f"{option} {spec!r}", error) from error


def _failure(said: str, error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, SyntaxError):
        return UserError(f"{said}: {error.filename}:{error.lineno}: {error.msg}.")
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())
    return UserError(f"{said}: {last.filename}:{last.lineno}: {type(error).__name__}: {reason}")
