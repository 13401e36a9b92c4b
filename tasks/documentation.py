"""Tasks on the English documentation in installed Python packages: training text without a download.

    docs_span_corruption, docs_causal_lm, docs_prefix_lm, docs_masked_lm     the docstrings themselves. docs_continuation is docs_prefix_lm without
                       an EOS between prefix and rest; docs_full_lm is docs_causal_lm in full rows
    docs_electra       masked for ELECTRA: 85 % of the chosen tokens become the mask, none another token
    docs_summary       "summarize: " body of a docstring -> its summary line
    docs_signature     "describe: " signature of a function or class -> the summary line of its docstring

The corpus has the docstrings of the installed packages among the standard library, jax, flax, optax, numpy, scipy and tensorflow.
They are extracted once, at first use, and stored in the cache directory by package versions: another version gives another
corpus. All tasks put a docstring in the same split, by a hash of its text: 96 % train, 2 % validation, 2 % test.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import re
import shutil
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.tasks import metrics
from t2t.tasks.cache import cache_directory
from t2t.tasks.docstrings import Entry, extract, source_files
from t2t.tasks.objectives import causal_lm, encoder_features, masked_lm, prefix_lm, span_corruption, text_features
from t2t.tasks.register import add
from t2t.tasks.sources.lines import LineSource
from t2t.tasks.sources.readers import JsonReader

log = logging.getLogger(__name__)

STANDARD_LIBRARY = "the standard library"
PACKAGES: tuple[str, ...] = (STANDARD_LIBRARY, "jax", "flax", "optax", "numpy", "scipy", "tensorflow")
SHARES = {"validation": 0.02, "test": 0.02}
VIEWS: Mapping[str, Mapping[str, type]] = {
    "corpus": {"text": str, "key": str},
    "summaries": {"body": str, "summary": str, "key": str},
    "signatures": {"signature": str, "summary": str, "key": str},
}
_VERSION = 1
_LONGEST_BODY = 480  # characters, so that prefix and body fit in 512 bytes
_LONGEST_SIGNATURE = 240
_SENTENCE = re.compile(r"(.{10,200}?[.!?])(?=\s|$)")


class DocumentationSource(LineSource):
    """One view of the corpus: a JSON lines file that is created at first use.

    view: "corpus", "summaries" or "signatures", with the fields in `VIEWS`.
    """

    def __init__(self, view: str) -> None:
        super().__init__(
            f"{view}.jsonl", reader=JsonReader(), fields=VIEWS[view], held_out=SHARES, split_by="key", on_bad="stop"
        )
        self.view = view

    def __str__(self) -> str:
        return f"documentation of installed packages ({self.view})"

    def paths(self, split: str) -> list[str]:
        """Return the view's file, which holds all splits. Create the corpus if the cache does not have it."""
        return [str(corpus() / f"{self.view}.jsonl")]


def corpus(processes: int | None = None) -> Path:
    """Return the directory of the corpus files. Create it if the cache does not have it.

    Args:
      processes: number of processes. Default: one for each core.

    Raises:
      UserError: no package has source files, or the cache directory is not writable.
    """
    roots = {name: root for name in PACKAGES if (root := _root(name)) is not None}
    versions = {name: _version(name, root) for name, root in roots.items()}
    key = hashlib.sha256(repr((_VERSION, sorted(versions.items()))).encode()).hexdigest()[:16]
    parent = cache_directory() / "documentation"
    directory = parent / key
    if all((directory / f"{view}.jsonl").is_file() for view in VIEWS):
        return directory
    log.warning("extracting the documentation of %s (once, into %s)", ", ".join(roots), directory)
    started = time.monotonic()
    files = [path for root in roots.values() for path in source_files(root)]
    extracted = extract(files, processes or _cores())
    if not extracted:
        raise UserError(f"no documentation found: none of {', '.join(PACKAGES)} is installed with its source files.")
    parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=parent))
    try:
        _write(extracted, partial)
        (partial / "versions.json").write_text(json.dumps(versions, indent=1), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)  # it may be incomplete
        os.rename(partial, directory)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        # Another process may have created the same files first.
        if not all((directory / f"{view}.jsonl").is_file() for view in VIEWS):
            raise UserError(f"{directory}: cannot be written: {error.strerror}.") from None
    log.warning("%d texts of documentation in %.0f s", len(extracted), time.monotonic() - started)
    return directory


def _cores() -> int:
    # Not os.cpu_count(), which ignores the limits of a container.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache  # called for every block
def _root(name: str) -> str | None:
    if name == STANDARD_LIBRARY:
        return sysconfig.get_paths()["stdlib"]
    spec = importlib.util.find_spec(name)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return locations[0] if locations else None


@functools.cache
def _version(name: str, root: str) -> str:
    if name == STANDARD_LIBRARY:
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # tensorflow-cpu, a source tree
        return str(os.stat(root).st_mtime_ns)


def _write(extracted: Sequence[Entry], directory: Path) -> None:
    with contextlib.ExitStack() as stack:
        streams = {
            view: stack.enter_context(open(directory / f"{view}.jsonl", "w", encoding="utf-8")) for view in VIEWS
        }
        for entry in extracted:
            for view, record in views(entry):
                streams[view].write(json.dumps(record, ensure_ascii=False) + "\n")


def views(entry: Entry) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (view, record) for each record of an entry."""
    key = hashlib.blake2b(entry.text.encode("utf-8"), digest_size=8).hexdigest()
    yield "corpus", {"text": entry.text, "key": key}
    head, _, rest = entry.text.partition("\n\n")
    sentence = _SENTENCE.match(" ".join(head.split()))
    if sentence is None:
        return
    body = _first_lines(rest.strip("\n"))
    if len(body) >= 40:
        yield "summaries", {"body": body, "summary": sentence[1], "key": key}
    if not entry.signature.startswith("module ") and len(entry.signature) <= _LONGEST_SIGNATURE:
        yield "signatures", {"signature": entry.signature, "summary": sentence[1], "key": key}


def _first_lines(text: str) -> str:
    """Return as many full lines from the start as fit."""
    if len(text) <= _LONGEST_BODY:
        return text
    return text[: _LONGEST_BODY + 1].rpartition("\n")[0].rstrip()


def register() -> None:
    """Register the documentation tasks. This does not create the corpus."""
    texts = DocumentationSource("corpus")
    for name, objective in (("span_corruption", span_corruption), ("causal_lm", causal_lm), ("prefix_lm", prefix_lm)):
        add(f"docs_{name}", source=texts, targets="text", objective=objective)
    # Targets only, which fill a decoder's full row; docs_causal_lm can be mixed with tasks that have inputs.
    add(
        "docs_full_lm",
        source=texts,
        targets="text",
        objective=causal_lm,
        features=functools.partial(text_features, inputs=False),
    )
    continued = functools.partial(text_features, continued=True)
    add("docs_continuation", source=texts, targets="text", objective=prefix_lm, features=continued)
    add("docs_masked_lm", source=texts, targets="text", objective=masked_lm, features=encoder_features)
    electra = functools.partial(masked_lm, masked=0.85, replaced=0.0)
    add("docs_electra", source=texts, targets="text", objective=electra, features=encoder_features)
    for name, view, prefix, inputs in (
        ("docs_summary", "summaries", "summarize: ", "body"),
        ("docs_signature", "signatures", "describe: ", "signature"),
    ):
        add(
            name,
            source=DocumentationSource(view),
            prefix=prefix,
            inputs=inputs,
            targets="summary",
            metrics=[metrics.rouge],
        )


register()
