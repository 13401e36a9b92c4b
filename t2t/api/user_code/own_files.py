"""Find the files of user code, of which a run keeps a copy. Installed packages are not copied."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType

import t2t
from t2t.config_classes import OWN

MODULES = "modules"
"""Folder of RUN/code for modules imported by name. Files imported by path are directly in RUN/code."""

_INSTALLED = {"site-packages", "dist-packages"}


def own_modules(modules: Iterable[ModuleType], base: Path) -> dict[str, ModuleType]:
    """Return the user modules by name: modules with files inside `base` that do not belong to an installed package."""
    found = {}
    for module in modules:
        name = getattr(module, "__name__", "")
        places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", ()))
        ours = name in ("", "__main__", "t2t") or name.startswith("t2t.")
        if not ours and places and all(_is_own(Path(str(place)), base) for place in places):
            found[name] = module
    return found


def files_of(modules: Mapping[str, ModuleType], base: Path) -> dict[str, Path]:
    """Return path in RUN/code -> file, for the files to keep. A package gives all its Python files, because it may import them later."""
    files: dict[str, Path] = {}
    for name, module in modules.items():
        if name.startswith(f"{OWN}."):
            files[f"{name.removeprefix(f'{OWN}.')}.py"] = Path(str(module.__file__))
            continue
        top = sys.modules.get(name.partition(".")[0], module)
        if not hasattr(top, "__path__"):
            if (path := Path(str(top.__file__))).suffix == ".py":
                files[f"{MODULES}/{top.__name__}.py"] = path
            continue
        for folder in map(Path, top.__path__):
            for path in sorted(folder.rglob("*.py")):
                if _is_own(path, base):
                    files[f"{MODULES}/{top.__name__}/{path.relative_to(folder).as_posix()}"] = path
    return files


def _is_own(path: Path, base: Path) -> bool:
    path = path.absolute()
    if not path.is_relative_to(base):
        return False
    inside = path.relative_to(base).parts
    if any(part in _INSTALLED or part == "__pycache__" or part.startswith(".") for part in inside):
        return False
    elsewhere = [sysconfig.get_path(which) for which in ("stdlib", "platstdlib", "purelib", "platlib")]
    elsewhere.append(str(Path(t2t.__file__).absolute().parent))
    return not any(path.is_relative_to(place) for place in elsewhere)
