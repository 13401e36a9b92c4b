"""Extract English documentation from Python source files, with the standard library only.

As a program, it reads a JSON list of file names from standard input and prints a JSON list of entries for each file. `extract` runs it in
several light processes, which do not import the package and TensorFlow.
"""

from __future__ import annotations

import ast
import gc
import inspect
import json
import os
import re
import string
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SHORTEST = 80  # characters; shorter docstrings have little content
LONGEST = 20_000
_LARGEST_FILE = 2_000_000  # bytes; generated code
_SKIPPED_DIRECTORIES = {
    "test",
    "tests",
    "testing",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "_vendor",
    "test_data",
    "turtledemo",
}
_SKIPPED_FILES = re.compile(r"(^test_|_test\.py$|_tests\.py$|_pb2\.py$|_pb2_grpc\.py$|^conftest\.py$)")
_WORDS = (string.ascii_letters + " ").encode()
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class Entry(NamedTuple):
    """A docstring and the signature of its object.

    text:      the docstring, without indentation.
    signature: "def name(arguments) -> result", "class Name(Base)" or "module name".
    """

    text: str
    signature: str


def source_files(root: str) -> list[str]:
    """Return the sorted Python files below a directory (or the file itself), without tests and generated code."""
    if os.path.isfile(root):
        return [root]
    found = []
    for directory, inner, files in os.walk(root):
        inner[:] = sorted(
            name for name in inner if name not in _SKIPPED_DIRECTORIES and not name.endswith(".dist-info")
        )
        for name in files:
            path = os.path.join(directory, name)
            if name.endswith(".py") and not _SKIPPED_FILES.search(name) and os.path.getsize(path) <= _LARGEST_FILE:
                found.append(path)
    return sorted(found)


def entries(path: str) -> list[Entry]:
    """Return the documentation in a file, in order; none for invalid Python."""
    try:
        with open(path, "rb") as file:
            source = file.read()
        # Skip the slow parsing if no string can be long enough.
        if not any(len(part) >= SHORTEST for quotes in (b'"""', b"'''") for part in source.split(quotes)[1::2]):
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    name = os.path.splitext(os.path.basename(path))[0]
    if name == "__init__":
        name = os.path.basename(os.path.dirname(path))
    return list(_walk(tree, name))


def _walk(node: ast.AST, name: str) -> Iterator[Entry]:
    if isinstance(node, _DOCUMENTED):
        text = _docstring(node)
        if text is not None:
            yield Entry(text, _signature(node, name))
        for child in node.body:
            yield from _walk(child, name)
    elif isinstance(node, ast.If | ast.Try | ast.With):
        for child in node.body:
            yield from _walk(child, name)


def _docstring(node: _DOCUMENTED) -> str | None:
    if not node.body or not isinstance(node.body[0], ast.Expr) or not isinstance(node.body[0].value, ast.Constant):
        return None
    raw = node.body[0].value.value
    if not isinstance(raw, str) or not SHORTEST <= len(raw) <= LONGEST:
        return None
    text = "\n".join(line.rstrip() for line in inspect.cleandoc(raw).splitlines()).strip()
    if len(text) < SHORTEST or not _prose(text):
        return None
    return text


def _prose(text: str) -> bool:
    """Return whether the text is mostly words, and not a table, a diagram or another script."""
    try:
        encoded = text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, from an escape
        return False
    return len(encoded.translate(None, _WORDS)) <= 0.4 * len(encoded)


def _signature(node: _DOCUMENTED, name: str) -> str:
    if isinstance(node, ast.Module):
        return f"module {name}"
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {node.name}({bases})" if bases else f"class {node.name}"
    result = f" -> {ast.unparse(node.returns)}" if node.returns is not None else ""
    return f"def {node.name}({ast.unparse(node.args)}){result}"


def extract(files: Sequence[str], processes: int) -> list[Entry]:
    """Return the documentation in all files, without repeated texts. The order is that of the files for any number of processes.

    Raises:
      RuntimeError: a process failed.
    """
    if processes <= 1:
        parts = [entries(path) for path in files]
    else:
        # Interleave the files, because neighbours have similar sizes.
        with tempfile.TemporaryDirectory() as directory:
            workers = [_start(files[rank::processes], os.path.join(directory, str(rank))) for rank in range(processes)]
            results = [_results(worker, output) for worker, output in workers]
        parts = [results[index % processes][index // processes] for index in range(len(files))]
    seen: dict[str, Entry] = {}
    for part in parts:
        for entry in part:
            seen.setdefault(entry.text, entry)
    return list(seen.values())


def _start(files: Sequence[str], output: str) -> tuple[subprocess.Popen[bytes], str]:
    with open(output + ".files", "w", encoding="utf-8") as file_list:
        json.dump(list(files), file_list)
    with (
        open(output + ".files", "rb") as input_file,
        open(output, "wb") as output_file,
        open(output + ".errors", "wb") as errors,
    ):
        return subprocess.Popen(
            [sys.executable, "-I", __file__], stdin=input_file, stdout=output_file, stderr=errors
        ), output


def _results(worker: subprocess.Popen[bytes], output: str) -> list[list[Entry]]:
    if worker.wait():
        with open(output + ".errors", encoding="utf-8", errors="replace") as errors:
            raise RuntimeError(f"extracting documentation failed: {errors.read()[-2000:]}")
    with open(output, encoding="utf-8") as output_file:
        return [[Entry(*entry) for entry in json.loads(line)] for line in output_file]


if __name__ == "__main__":
    gc.disable()  # syntax trees have no cycles, and garbage collection takes a third of the time
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    for file in json.load(sys.stdin):
        print(json.dumps(entries(file)))
