"""Copy of the package `flatbuffers` for exports.

`jax.export` needs it, but it is not a requirement of JAX. It is pure Python: a zip of 30 KB from which Python can import directly.
"""

from __future__ import annotations

import importlib.metadata
import zipfile
from pathlib import Path

from t2t.errors import Failure
from t2t.installing import DISTRIBUTION

FLATBUFFERS = "flatbuffers.zip"


def write_flatbuffers(path: Path) -> None:
    """Write the package's modules, metadata and license (Apache 2.0) to a zip file. The bytes are always the same."""
    package = importlib.metadata.distribution("flatbuffers")
    files = {str(file): file.read_text() for file in package.files or () if file.suffix == ".py"}
    files["flatbuffers/METADATA"] = package.read_text("METADATA") or ""
    files["flatbuffers/LICENSE"] = _license()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def _license() -> str:
    """Return the text of the Apache License 2.0 from this package: `flatbuffers` has the same license, but does not include its text."""
    # In a checkout, setuptools leaves metadata without the license, which is found before the installed metadata.
    found = [each.read_text("licenses/LICENSE") for each in importlib.metadata.distributions(name=DISTRIBUTION)]
    text = next((text for text in found if text is not None), None)
    if text is None:
        raise Failure(f"the installed package {DISTRIBUTION} has no LICENSE file: reinstall it")
    return text
