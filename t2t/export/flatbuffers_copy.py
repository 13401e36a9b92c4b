"""The package `flatbuffers`, copied beside an export.

`jax.export` reads and writes its files with it, and JAX's own requirements do not name it. It is pure Python, 30 KB as a zip, which Python imports from as it is.
"""

from __future__ import annotations

import importlib.metadata
import zipfile
from pathlib import Path

from t2t.errors import Failure
from t2t.installing import DISTRIBUTION

FLATBUFFERS = "flatbuffers.zip"


def write_flatbuffers(path: Path) -> None:
    """Write the installed package's modules, its metadata and its license (Apache 2.0) to a zip file, the same bytes each time."""
    package = importlib.metadata.distribution("flatbuffers")
    files = {str(file): file.read_text() for file in package.files or () if file.suffix == ".py"}
    files["flatbuffers/METADATA"] = package.read_text("METADATA") or ""
    files["flatbuffers/LICENSE"] = _license()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def _license() -> str:
    """Return the text of the Apache License 2.0: the package has it by reference alone, and this one is under the same."""
    # More than one may be found: setuptools leaves a description without the license in a checkout, where it comes before the installed one.
    found = [each.read_text("licenses/LICENSE") for each in importlib.metadata.distributions(name=DISTRIBUTION)]
    text = next((text for text in found if text is not None), None)
    if text is None:
        raise Failure(f"the installed package {DISTRIBUTION} lacks its LICENSE: install it anew")
    return text
