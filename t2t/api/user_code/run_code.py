"""Run the code that a run keeps, if the user trusts it or has trained with the same code on this machine. Print its files first.

A run directory may come from a stranger. The files are read once, compared with their checksums and executed from memory. So exactly the printed
files run. Other files of the directory and compiled files (`__pycache__`) are ignored.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from t2t import config, config_classes
from t2t.api.quiet import import_tensorflow
from t2t.api.user_code import imports, known_code
from t2t.api.user_code.own_files import MODULES
from t2t.config_classes import OWN
from t2t.errors import UserError
from t2t.json_files import expect, read_json
from t2t.train.own_code import CODE, checksum, read
from t2t.train.run import RECORD

TRUST = "--trust-code"

_trusted = False


def trust(trusted: bool) -> None:
    """Set whether the code of runs may be executed: --trust-code, in Python trust_code=True."""
    global _trusted
    _trusted = trusted


@contextlib.contextmanager
def trusting(trusted: bool) -> Iterator[None]:
    """Context in which the code of runs may be executed, if `trusted` is true."""
    before = _trusted
    trust(before or trusted)
    try:
        yield
    finally:
        trust(before)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The code that a run needs, from run.json.

    imports:   names of files in RUN/code, names of modules, or (older runs) paths of files.
    checksums: path in RUN/code -> SHA-256.
    unknown:   classes of the configuration that are unknown without the code.
    """

    directory: Path
    imports: tuple[str, ...]
    checksums: dict[str, str]
    unknown: tuple[str, ...]

    @property
    def missing(self) -> tuple[str, ...]:
        """The imports that this process has not loaded yet."""
        return tuple(name for name in self.imports if _module_name(name) not in sys.modules)


def needs(directory: Path) -> Needs:
    """Return the code that a run needs, without running it. Raises UserError if the record cannot be read."""
    path = directory / RECORD
    data = read_json(path)
    names = expect(data.get("imports", []), list, f"{path}: imports")
    files = expect(data.get("code", {}), dict, f"{path}: code")
    for place, digest in files.items():
        expect(digest, str, f"{path}: code: {place}")
    tags = list(dict.fromkeys(_tags(data)))
    return Needs(
        directory=directory,
        imports=tuple(expect(name, str, f"{path}: imports") for name in names),
        checksums=files,
        unknown=tuple(name for name in tags if config_classes.find(name) is None),
    )


def ready(directory: Path) -> None:
    """Run a run's code, if the user trusts it, or if the configuration needs it and the user has trained with the same code on this machine.

    Raises UserError if the configuration needs other code, or if the code has changed. The message lists the code and how to run it.
    """
    if not (directory / RECORD).is_file():
        return  # reading the record raises the error
    found = needs(directory)
    if _trusted:
        _run(found)
    elif found.unknown and found.imports:
        run_if_known(found, f"its configuration has {_shown(found.unknown[0])}")


def run_if_known(found: Needs, why: str) -> None:
    """Run the code of a run, if the user has trained with exactly this code on this machine. Raises UserError otherwise.

    why: why the code is needed, for errors.
    """
    kept = _Kept(found.directory / CODE, dict.fromkeys(found.checksums, b""))
    complete = all(kept.has(_module_name(name)) for name in found.imports)  # installed modules have no checksum
    if not (complete and known_code.is_known(found.imports, found.checksums)):
        raise _refusal(found, why)
    _run(found)


def _refusal(found: Needs, why: str) -> UserError:
    files = found.checksums or found.imports
    shown = ", ".join(_described(found.directory, name) for name in list(files)[:5])
    more = f" and {len(files) - 5} more" if len(files) > 5 else ""
    return UserError(
        f"{found.directory} needs its user code ({why}), which does not run without permission: {shown}{more}."
        f" Read the code, then run it with {TRUST}, or import your own copy with --import (in Python trust_code=True, imports=[...])."
    )


def _run(found: Needs) -> None:
    names = found.missing
    if not names:
        return
    files = read(found.directory, found.checksums)
    for name in files or names:
        print(f"running code of {found.directory}: {_described(found.directory, name)}", file=sys.stderr, flush=True)
    if any(b"t2t" in content or b"seqio" in content for content in files.values()):
        import_tensorflow()  # quietly, because such code probably registers tasks
    finder = _Kept(found.directory / CODE, files)
    sys.meta_path.insert(0, finder)
    imports.with_package()
    where = f"{found.directory / RECORD}: imports"
    kept = [name for name in names if finder.has(_module_name(name))]
    for name in names:
        if name not in kept:  # an installed package, or a file of an older run without copies
            imports.load(name, option=where)
            continue
        with imports.one_line_errors(f"{where} {name!r}"):
            importlib.import_module(_module_name(name))
    for module in [each for each in sys.modules.values() if getattr(each, "__loader__", None) is finder]:
        config_classes.register_module(module)
    if kept:
        imports.note_kept(kept, {place: found.directory / CODE / place for place in files})


def _module_name(name: str) -> str:
    return f"{OWN}.{Path(name).stem}" if name.endswith(".py") else name


def _described(directory: Path, name: str) -> str:
    path = directory / CODE / name if (directory / CODE / name).is_file() else Path(name)
    if not path.is_file():
        return f"{_shown(name)} ({'missing' if name.endswith('.py') else 'a module'})"
    content = path.read_bytes()
    return f"{_shown(str(path))} ({len(content):,} bytes, SHA-256 {checksum(content)})"


def _shown(name: str) -> str:
    """Return a name from an untrusted file for printing: escape it if it has control characters."""
    return name if name.isprintable() else ascii(name)


def _tags(data: Any) -> list[str]:
    if isinstance(data, list):
        return [name for item in data for name in _tags(item)]
    if not isinstance(data, dict):
        return []
    own = [data[config.CLASS]] if isinstance(data.get(config.CLASS), str) else []
    return own + [name for item in data.values() for name in _tags(item)]


class _Kept(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Imports only the files of RUN/code, from their contents in memory."""

    def __init__(self, folder: Path, files: Mapping[str, bytes]) -> None:
        self._folder, self._files = folder, files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not self.has(fullname):
            return None
        place = self._place(fullname)
        origin = str(self._folder / place) if place else None
        spec = importlib.util.spec_from_loader(fullname, self, origin=origin, is_package=self.is_package(fullname))
        if spec is not None:
            spec.has_location = place is not None
        return spec

    def has(self, fullname: str) -> bool:
        """Return whether the run keeps this module."""
        return self._place(fullname) is not None or self.is_package(fullname)

    def is_package(self, fullname: str) -> bool:
        if fullname.startswith(f"{OWN}."):
            return False
        folder = f"{MODULES}/{fullname.replace('.', '/')}/"
        return any(place.startswith(folder) for place in self._files)

    def get_source(self, fullname: str) -> str:
        place = self._place(fullname)
        return importlib.util.decode_source(self._files[place]) if place else ""

    def get_code(self, fullname: str) -> CodeType:
        place = self._place(fullname)
        return compile(self.get_source(fullname), str(self._folder / place) if place else "<package>", "exec")

    def _place(self, fullname: str) -> str | None:
        if fullname.startswith(f"{OWN}."):
            place = f"{fullname.removeprefix(f'{OWN}.')}.py"
            return place if place in self._files else None
        base = f"{MODULES}/{fullname.replace('.', '/')}"
        return next((place for place in (f"{base}/__init__.py", f"{base}.py") if place in self._files), None)
