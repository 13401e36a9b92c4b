"""What to install where an optional package is missing.

The distribution is called `t2t-jax`; on PyPI, `t2t` is another project's name, which no message may tell anybody to install.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from pathlib import Path

DISTRIBUTION = "t2t-jax"
"""The name that setup.py gives."""


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra of setup.py: from the checkout where this is one, else the packages themselves.

    An installed wheel does not know where it came from, but its metadata names what the extra consists of.
    """
    if _checkout().joinpath("setup.py").is_file():
        return f'pip install ".[{extra}]" in {_checkout()}'
    return f"pip install {shlex.join(_packages(extra))}"


def _packages(extra: str) -> list[str]:
    ours = []
    for requirement in importlib.metadata.requires(DISTRIBUTION) or ():
        package, _, condition = requirement.partition(";")
        if re.search(rf"""extra == ["']{re.escape(extra)}["']""", condition):
            ours.append(package.strip())
    return ours


def _checkout() -> Path:
    return Path(__file__).absolute().parents[1]
