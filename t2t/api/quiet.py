"""Importing TensorFlow and SeqIO quickly and quietly: without Keras, and without the lines that are written before its own logging is set up."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import os
import re
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

from t2t import garbage, standard_error

_NOISE = re.compile(
    r"^(WARNING: All log messages before absl::InitializeLog|[IWE]\d{4} \d\d:\d\d:|I0000 |E0000 .*cuInit)"
)


def import_tensorflow() -> None:
    """Import TensorFlow and SeqIO; of what is written to standard error meanwhile, only what is no such line comes through.

    The file descriptor is redirected, since the lines come from compiled code that no setting reaches.
    """
    if "seqio" in sys.modules:
        return
    hush_tensorflow()
    with garbage.postponed(), _hushed():
        with _failing("keras", "h5py", "scipy"):
            import tensorflow  # noqa: F401
        with _later("tensorflow_text"), _later("pyglove"):
            import seqio  # noqa: F401


def hush_tensorflow() -> None:
    """Let TensorFlow, whoever imports it, write none of those lines, nor tell of its devices later."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # It only reads data here: the same numbers everywhere are worth more.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _Hushing) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Hushing())


class _Hushing(importlib.abc.MetaPathFinder):
    """Finds TensorFlow where it is, and hushes its import."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname != "tensorflow":
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is not None and found.loader is not None:
            execute = found.loader.exec_module

            def hushed(module: types.ModuleType) -> None:
                with _hushed():
                    execute(module)

            found.loader.exec_module = hushed  # type: ignore[method-assign]
        return found


_hushing = False


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Of what is written to standard error inside, let through only what is none of those lines."""
    global _hushing
    if _hushing:
        yield
        return
    _hushing = True
    try:
        with standard_error.without(_NOISE):
            yield
    finally:
        _hushing = False


def register_tasks() -> None:
    """Register the tasks that come with the stack."""
    import_tensorflow()
    import t2t.tasks  # noqa: F401


class _Failing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages where they are, and fails to load them."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname not in self._names:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is not None:
            found.loader = self
        return found

    def exec_module(self, module: types.ModuleType) -> None:
        raise ImportError(f"{module.__name__} is not wanted yet")


@contextlib.contextmanager
def _failing(*names: str) -> Iterator[None]:
    """Let imports of packages fail for now. TensorFlow does without these, which are seconds of work; Keras it imports later, when it is first used."""
    finder = _Failing(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Later(types.ModuleType):
    """Stands for a module, which is imported when something of it is first wanted."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _later(name: str) -> Iterator[None]:
    """Give a stand-in to who imports a module meanwhile: of what SeqIO imports, TensorFlow Text is for SentencePiece alone, and imports Keras."""
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _Later(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
