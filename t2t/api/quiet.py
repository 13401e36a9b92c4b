"""Import TensorFlow and SeqIO fast and quietly: without Keras, and without the log lines that TensorFlow writes before it sets up logging."""

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
"""Log lines of TensorFlow's compiled code to hide."""


def import_tensorflow() -> None:
    """Import TensorFlow and SeqIO without the log lines in `_NOISE`.

    Compiled code writes these lines, and no setting disables them. So the file descriptor of standard error is redirected.
    """
    if "seqio" in sys.modules:
        return
    hush_tensorflow()
    with garbage.postponed(), _without_noise():
        with _failing("keras", "h5py", "scipy"):
            import tensorflow  # noqa: F401
        with _later("tensorflow_text"), _later("pyglove"):
            import seqio  # noqa: F401


def hush_tensorflow() -> None:
    """Hide the log lines in `_NOISE` whenever TensorFlow is imported, and set its log level to errors."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # TensorFlow only reads data here, so reproducible numbers matter more than speed.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    if "tensorflow" not in sys.modules and not any(isinstance(finder, _QuietFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _QuietFinder())


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow and makes its import quiet."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> Any:
        if fullname != "tensorflow":
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is not None and found.loader is not None:
            execute = found.loader.exec_module

            def quiet(module: types.ModuleType) -> None:
                with _without_noise():
                    execute(module)

            found.loader.exec_module = quiet  # type: ignore[method-assign]
        return found


_filtering = False


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Remove the log lines in `_NOISE` from standard error. Nested uses do nothing."""
    global _filtering
    if _filtering:
        yield
        return
    _filtering = True
    try:
        with standard_error.without(_NOISE):
            yield
    finally:
        _filtering = False


def register_tasks() -> None:
    """Register the built-in tasks."""
    import_tensorflow()
    import t2t.tasks  # noqa: F401


class _Failing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds packages and fails to load them."""

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
        raise ImportError(f"the import of {module.__name__} is postponed")


@contextlib.contextmanager
def _failing(*names: str) -> Iterator[None]:
    """Make imports of these packages fail, because they take seconds. TensorFlow works without them and imports Keras at its first use."""
    finder = _Failing(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Later(types.ModuleType):
    """Stand-in for a module. The first use of an attribute imports the module."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def _later(name: str) -> Iterator[None]:
    """Replace a module with a stand-in. SeqIO imports TensorFlow Text only for SentencePiece, and TensorFlow Text imports Keras."""
    if name in sys.modules:
        yield
        return
    stand_in = sys.modules[name] = _Later(name)
    try:
        yield
    finally:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
