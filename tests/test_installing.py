"""What is said where an optional package is missing."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from t2t import installing
from t2t.installing import how_to_install

ROOT = Path(__file__).parents[1]
SETUP = (ROOT / "setup.py").read_text(encoding="utf-8")


def test_in_a_checkout_it_is_the_checkouts_extra():
    assert how_to_install("gguf") == f'pip install ".[gguf]" in {ROOT}'


def test_an_installed_wheel_names_the_packages(monkeypatch, tmp_path):
    monkeypatch.setattr(installing, "_checkout", lambda: tmp_path)
    required = [
        "numpy<3,>=2",
        'gguf<1,>=0.17; extra == "gguf"',
        'jax[cuda13]<0.13,>=0.10; extra == "gpu"',
        "apache-beam<3,>=2.70; extra == 'cache'",
        'sentencepiece<0.2.3; python_version < "3.14" and extra == "cache"',
    ]
    asked = []
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked.append(name) or required)
    assert how_to_install("gguf") == "pip install 'gguf<1,>=0.17'"
    assert how_to_install("gpu") == "pip install 'jax[cuda13]<0.13,>=0.10'"
    assert how_to_install("cache") == "pip install 'apache-beam<3,>=2.70' 'sentencepiece<0.2.3'"
    assert set(asked) == {"t2t-jax"}


def test_the_name_is_that_of_the_distribution():
    assert f'name="{installing.DISTRIBUTION}"' in SETUP


def test_nothing_says_to_install_the_other_project():
    """`t2t` on PyPI is not this project."""
    other = re.compile(r"pip3? install[^\n|]*?[\s'\"](t2t)(\[[a-z,]+\])?(?=$|[\s'\"`.,;)=<>])|\bt2t\[[a-z,]+\]", re.M)
    assert other.search("pip install t2t")
    assert other.search("run pip install 't2t[gguf]' first")
    assert other.search("is t2t[gpu] there?")
    assert not other.search("pip install t2t-jax")
    wrong = []
    for folder in (
        "t2t",
        "models",
        "tasks",
        "launch",
        "docs",
        "benchmarks",
        "README.md",
        "CONTRIBUTING.md",
        "setup.py",
    ):
        place = ROOT / folder
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in (".py", ".md", ".jinja", ".html") and other.search(path.read_text(encoding="utf-8")):
                wrong.append(str(path))
    assert wrong == []


@pytest.mark.parametrize("extra", ["gguf", "cache", "quantized", "interop", "gpu", "tpu"])
def test_the_extras_that_messages_name_are_there(extra):
    assert f'"{extra}": ' in SETUP
