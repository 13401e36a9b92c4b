"""Code of the user's that registers tasks or has recipes: modules by name, or files.

What was imported is known to two others: to processes started from here, which import it too (`used`), and to the run that is trained,
which keeps a copy of the files (`own_code`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from t2t import config_classes
from t2t.api.user_code.own_files import files_of, own_modules
from t2t.errors import UserError, nearest
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


def use(specs: Iterable[str], *, option: str = "--import") -> None:
    """Import each of the user's modules and files, once. option: where the names came from, for errors."""
    for spec in specs:
        load(spec, option=option)


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
        with one_line_errors(f"{option} {spec!r}", str(path)):
            found.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
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
    with one_line_errors(f"{option} {spec!r}"):
        try:
            return importlib.import_module(spec)
        except ModuleNotFoundError as error:
            if error.name is None or not (spec == error.name or spec.startswith(error.name + ".")):
                raise
            files = [found.stem for found in Path.cwd().glob("*.py")]
            raise UserError(
                f"{option} {spec!r}: no such module, installed or in {here}.{nearest(spec, files)}"
            ) from None


def function_of(name: str, *, option: str) -> Callable[[], Any]:
    """Return a function of the user's, "module:function" or "file.py:function", that is called without arguments.

    option: what the name was given for, for errors. What the function raises is told as what an import raises.

    Raises:
      UserError: no such file, module or function, or one that needs arguments.
    """
    source, _, function = name.rpartition(":")
    module = load(source, option=option)
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{option} {name}: {source} has no function {function!r}.{nearest(function, names)}")
    said = f"{option} {name}"
    needed = _needed(found)
    if needed:
        raise UserError(
            f"{said}: {function}() needs the argument{'s' * (len(needed) > 1)} {', '.join(needed)}, and is called without any."
            f" Nearest: a function without arguments, or defaults for {', '.join(needed)}."
        )

    def called() -> Any:
        with one_line_errors(said, getattr(module, "__file__", None)):
            return found()

    return functools.update_wrapper(called, found)


def _needed(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C do not tell
        return []
    return [
        it.name for it in parameters if it.default is it.empty and it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)
    ]


@contextlib.contextmanager
def one_line_errors(said: str, file: str | None = None) -> Iterator[None]:
    """Make what the user's code raises inside a UserError of one line, with the file and line it comes from. `sys.exit` counts as a failure.

    said: what was asked for, the line's beginning.
    file: whose line to name, of all that the call went through; the innermost one otherwise.
    """
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{said}: {error.filename}:{error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file] or frames[-1:]
        if isinstance(error, SystemExit):
            reason = f"sys.exit({'' if error.code is None else repr(error.code)}) ends the program before the command has begun"
        else:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{said}: {own[-1].filename}:{own[-1].lineno}: {reason}") from error


def note_kept(entries: Sequence[str], files: Mapping[str, Path]) -> None:
    """Record code that a run keeps and that was run from there: what is trained with it keeps it too.

    entries: as the run calls them; files: path in RUN/code -> the run's file.
    """
    for number, entry in enumerate(entries):
        again = str(files[entry]) if entry in files else entry
        _used[again] = _Import(entry=entry, again=again, files={} if number else dict(files))
