"""Code of the user's that registers tasks or has recipes: modules by name, or files.

What was imported is known to two others: to processes started from here, which import it too (`used`), and to the run that is trained,
which keeps a copy of the files (`own_code`).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from t2t import config_classes
from t2t.errors import UserError, nearest
from t2t.launch.own_files import files_of, own_modules
from t2t.train.own_code import OwnCode


@dataclass(frozen=True, kw_only=True)
class _Import:
    """One import of the user's.

    entry: what run.json calls it: a file's name, or a module's.
    again: what `load` is given for it in another process of this machine.
    files: the user's own files that it is made of: path in RUN/code -> file.
    """

    entry: str
    again: str
    files: dict[str, Path]


_known: dict[str, _Import] = {}
_used: dict[str, _Import] = {}


def forget() -> None:
    """Begin anew: what was imported before is not recorded with what is trained from now on."""
    _used.clear()


def use(specs: Iterable[str]) -> None:
    """Import each of --import's modules and files, once."""
    for spec in specs:
        load(spec)


def used() -> tuple[str, ...]:
    """Return what has been imported, for another process to import too: modules' names, and files' whole paths."""
    return tuple(one.again for one in _used.values())


def own_code() -> OwnCode:
    """Return what has been imported, for a run to keep. Raises UserError where a file can no longer be read."""
    files: dict[str, bytes] = {}
    for one in _used.values():
        for place, path in one.files.items():
            try:
                files[place] = path.read_bytes()
            except OSError as error:
                raise UserError(f"--import {one.entry!r}: {path} cannot be read: {error.strerror}") from None
    return OwnCode(imports=tuple(one.entry for one in _used.values()), files=files)


def load(spec: str, *, option: str = "--import") -> ModuleType:
    """Import `my_module`, `my.module` or `path/to/my_tasks.py` and return it; a file is imported once however often it is asked for.

    Modules are also looked for in the current directory, and those that a file imports beside the file. Dataclasses of the user's own may
    from then on be named in a run's configuration.

    option: where the name came from, for errors.

    Raises:
      UserError: nothing is there, or importing it fails; the error and its line are quoted.
    """
    before = set(sys.modules)
    if spec.endswith(".py"):
        path = _path(spec, option)
        module, again, base = _file(path, spec, option), str(path), path.parent
        entry = f"{module.__name__.removeprefix(f'{config_classes.OWN}.')}.py"
    else:
        module, again, base, entry = _module(spec, option), spec, Path.cwd(), spec
    if not module.__name__.startswith("t2t."):  # the stack's own recipes and grids are there on every machine
        _note(module, entry, again, base, before)
    return module


def _note(module: ModuleType, entry: str, again: str, base: Path, before: set[str]) -> None:
    if again not in _known:
        new = [found for name, found in list(sys.modules.items()) if name not in before and found is not module]
        own = own_modules([module, *new], base)
        top = module.__name__.partition(".")[0]
        parts = [found for found in new if top != config_classes.OWN and found.__name__.partition(".")[0] == top]
        for each in (module, *parts, *own.values()):
            config_classes.register_module(each)
        _known[again] = _Import(entry=entry, again=again, files=files_of(own, base))
    _used[again] = _known[again]


def _path(spec: str, option: str) -> Path:
    path = Path(spec).expanduser()
    if not path.is_file():
        beside = [str(path.parent / found.name) for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"{option} {spec!r}: no such file.{nearest(spec, beside)}")
    return path.resolve()


def _file(path: Path, spec: str, option: str) -> ModuleType:
    name = _name(path)
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # as Python does for a script: it may import its neighbours
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    with_package()
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise failure(f"{option} {spec!r}", error) from error
    return module


def _name(path: Path) -> str:
    """Return the name of a file's module: the file's own, numbered where another file of that name was imported before it."""
    stem, number = f"{config_classes.OWN}.{path.stem}", 1
    while True:
        name = stem if number == 1 else f"{stem}_{number}"
        there = sys.modules.get(name)
        if there is None or there.__file__ == str(path):
            return name
        number += 1


def with_package() -> None:
    """See to it that the package of imported files is there: a pickled function of theirs is looked up through it."""
    if config_classes.OWN not in sys.modules:
        package = ModuleType(config_classes.OWN)
        package.__path__ = []
        sys.modules[config_classes.OWN] = package


def _module(spec: str, option: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(spec)
    except ModuleNotFoundError as error:
        if error.name is None or not (spec == error.name or spec.startswith(error.name + ".")):
            raise failure(f"{option} {spec!r}", error) from error
        files = [found.stem for found in Path.cwd().glob("*.py")]
        raise UserError(f"{option} {spec!r}: no such module, installed or in {here}.{nearest(spec, files)}") from None
    except Exception as error:
        raise failure(f"{option} {spec!r}", error) from error


def failure(said: str, error: Exception) -> UserError:
    """Return what to tell where importing the user's code failed: the line of it, and the error."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, SyntaxError):
        return UserError(f"{said}: {error.filename}:{error.lineno}: {error.msg}.")
    last = traceback.extract_tb(error.__traceback__)[-1]
    reason = " ".join(str(error).split())
    return UserError(f"{said}: {last.filename}:{last.lineno}: {type(error).__name__}: {reason}")


def note_kept(entries: Sequence[str], files: Mapping[str, Path]) -> None:
    """Record code that a run keeps and that was run from there: what is trained with it keeps it too.

    entries: as the run calls them; files: path in RUN/code -> the run's file.
    """
    for number, entry in enumerate(entries):
        again = str(files[entry]) if entry in files else entry
        _used[again] = _Import(entry=entry, again=again, files={} if number else dict(files))
