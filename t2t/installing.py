"""Installation instructions for missing optional packages.

The distribution is named `t2t-jax`. On PyPI, `t2t` is another project, so no message may tell users to install it.
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
from pathlib import Path

DISTRIBUTION = "t2t-jax"
"""The distribution's name in setup.py."""


def how_to_install(extra: str) -> str:
    """Return the command that installs an extra of setup.py: from the checkout, or package by package for an installed wheel.

    A wheel does not know its origin, but its metadata lists the packages of the extra.
    """
    if _checkout().joinpath("setup.py").is_file():
        return f'pip install ".[{extra}]" in {_checkout()}'
    return f"pip install {shlex.join(_packages(extra))}"


def _packages(extra: str) -> list[str]:
    packages = []
    for requirement in importlib.metadata.requires(DISTRIBUTION) or ():
        package, _, condition = requirement.partition(";")
        if re.search(rf"""extra == ["']{re.escape(extra)}["']""", condition):
            packages.append(package.strip())
    return packages


def _checkout() -> Path:
    return Path(__file__).absolute().parents[1]
