"""Import user code that registers tasks or defines recipes: modules by name, or files by path.

Child processes import the same code (`used`). A trained run keeps a copy of the files (`own_code`).
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
    """One user import.

    entry: its name in run.json: the name of a file or a module.
    spec:  the argument of `load` in another process on this machine.
    files: its user files: path in RUN/code -> file.
    """

    entry: str
    spec: str
    files: dict[str, Path]


_known: dict[str, _Import] = {}
_used: dict[str, _Import] = {}


def forget() -> None:
    """Clear the list of imports. Runs trained from now on do not record earlier imports."""
    _used.clear()


def use(specs: Iterable[str], *, option: str = "--import") -> None:
    """Import each user module or file, once. option: the option that names them, for errors."""
    for spec in specs:
        load(spec, option=option)


def used() -> tuple[str, ...]:
    """Return the imports for another process: names of modules, and absolute paths of files."""
    return tuple(one.spec for one in _used.values())


def own_code() -> OwnCode:
    """Return the imported user code, for a run to keep. Raises UserError if a file can no longer be read."""
    files: dict[str, bytes] = {}
    for one in _used.values():
        for place, path in one.files.items():
            try:
                files[place] = path.read_bytes()
            except OSError as error:
                raise UserError(f"--import {one.entry!r}: {path} cannot be read: {error.strerror}") from None
    return OwnCode(imports=tuple(one.entry for one in _used.values()), files=files)


def load(spec: str, *, option: str = "--import") -> ModuleType:
    """Import `my_module`, `my.module` or `path/to/my_tasks.py` and return the module. A file is imported only once.

    Modules are also searched in the current directory. The imports of a file are also searched in the file's directory. After the import, a
    run's configuration can contain the module's dataclasses.

    option: the option that names the import, for errors.

    Raises:
      UserError: the module or file is not found, or its import fails. The message quotes the error and its line.
    """
    before = set(sys.modules)
    if spec.endswith(".py"):
        path = _path(spec, option)
        module, full_spec, base = _file(path, spec, option), str(path), path.parent
        entry = f"{module.__name__.removeprefix(f'{config_classes.OWN}.')}.py"
    else:
        module, full_spec, base, entry = _module(spec, option), spec, Path.cwd(), spec
    if not module.__name__.startswith("t2t."):  # the library's own recipes and grids exist on every machine
        _record(module, entry, full_spec, base, before)
    return module


def _record(module: ModuleType, entry: str, spec: str, base: Path, before: set[str]) -> None:
    if spec not in _known:
        new = [found for name, found in list(sys.modules.items()) if name not in before and found is not module]
        own = own_modules([module, *new], base)
        top = module.__name__.partition(".")[0]
        parts = [found for found in new if top != config_classes.OWN and found.__name__.partition(".")[0] == top]
        for each in (module, *parts, *own.values()):
            config_classes.register_module(each)
        _known[spec] = _Import(entry=entry, spec=spec, files=files_of(own, base))
    _used[spec] = _known[spec]


def _path(spec: str, option: str) -> Path:
    path = Path(spec).expanduser()
    if not path.is_file():
        others = [str(path.parent / found.name) for found in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise UserError(f"{option} {spec!r}: no such file.{nearest(spec, others)}")
    return path.resolve()


def _file(path: Path, spec: str, option: str) -> ModuleType:
    name = _name(path)
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # as Python does for a script, so that it can import neighbouring files
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
    """Return the module name of a file. A number is appended if another file with the same name was imported before."""
    stem, number = f"{config_classes.OWN}.{path.stem}", 1
    while True:
        name = stem if number == 1 else f"{stem}_{number}"
        loaded = sys.modules.get(name)
        if loaded is None or loaded.__file__ == str(path):
            return name
        number += 1


def with_package() -> None:
    """Create the package of imported files if it is missing. Unpickling a function from such a file needs the package."""
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
                f"{option} {spec!r}: no such module, neither installed nor in {here}.{nearest(spec, files)}"
            ) from None


def function_of(name: str, *, option: str) -> Callable[[], Any]:
    """Return a user function without arguments: "module:function" or "file.py:function".

    The returned function raises errors in the same form as a failed import.

    option: the option that names the function, for errors.

    Raises:
      UserError: the file, module or function is not found, or the function needs arguments.
    """
    source, _, function = name.rpartition(":")
    module = load(source, option=option)
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{option} {name}: {source} has no function {function!r}.{nearest(function, names)}")
    label = f"{option} {name}"
    needed = _needed(found)
    if needed:
        raise UserError(
            f"{label}: {function}() needs the argument{'s' * (len(needed) > 1)} {', '.join(needed)}, but is called without arguments."
            f" Nearest: a function without arguments, or defaults for {', '.join(needed)}."
        )

    def called() -> Any:
        with one_line_errors(label, getattr(module, "__file__", None)):
            return found()

    return functools.update_wrapper(called, found)


def _needed(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have no signature
        return []
    return [
        it.name for it in parameters if it.default is it.empty and it.kind not in (it.VAR_POSITIONAL, it.VAR_KEYWORD)
    ]


@contextlib.contextmanager
def one_line_errors(label: str, file: str | None = None) -> Iterator[None]:
    """Turn exceptions of user code into a one-line UserError with the file and line of their origin. `sys.exit` is an error too.

    label: the beginning of the message, which names the option and its value.
    file:  the user's file. The message names the innermost line in this file, or the innermost line of all if there is none.
    """
    try:
        yield
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"{label}: {error.filename}:{error.lineno}: {error.msg}.") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == file] or frames[-1:]
        if isinstance(error, SystemExit):
            reason = (
                f"sys.exit({'' if error.code is None else repr(error.code)}) ends the program before the command starts"
            )
        else:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{label}: {own[-1].filename}:{own[-1].lineno}: {reason}") from error


def note_kept(entries: Sequence[str], files: Mapping[str, Path]) -> None:
    """Record code that was loaded from a run, so that runs trained with it keep it too.

    entries: names of the imports in the run.
    files:   path in RUN/code -> file in the run.
    """
    for number, entry in enumerate(entries):
        spec = str(files[entry]) if entry in files else entry
        _used[spec] = _Import(entry=entry, spec=spec, files={} if number else dict(files))
