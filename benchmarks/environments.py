"""Create the virtual environments of the peers: `python -m benchmarks.environments [PEER ...] --environments DIR`."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process import ROOT
from t2t.errors import UserError, nearest

DIRECTORY = ".venv-benchmarks"
_JAX = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "seqio", "tensorflow")


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The environment of a peer.

    installs: arguments of each `pip install` call.
    python:   interpreter to create it with; None for the current one.
    """

    installs: tuple[tuple[str, ...], ...]
    python: str | None = None


_CONSTRAINED = ("-c", "constraints.txt")
ENVIRONMENTS = {
    # Install PyTorch first and alone, like `make test-interop`: pip then does not install CUDA if the CPU build is available.
    "transformers": Environment(installs=(("torch==2.13.0",), ("transformers==5.23.0", "numpy", "safetensors"))),
    # T5X requires the newest versions of its dependencies from GitHub, and airio and jestimator, which are not on PyPI or cannot be imported:
    # `peers.t5x_import` replaces these two. The dependencies of t5 conflict with current pandas and transformers; its preprocessors only need babel.
    "t5x": Environment(
        installs=(
            (
                *_CONSTRAINED,
                *_JAX,
                *("clu==0.0.12", "gin-config==0.5.0", "cached-property==2.0.1", "chex", "jaxtyping", "fiddle==0.3.1"),
                *("tensorboard", "babel"),
            ),
            ("--no-deps", "t5==0.9.4"),
        )
    ),
    # MaxText only declares its dependencies in extras for TPUs and GPUs (gigabytes of accelerator libraries). This list is what its pretraining imports.
    "maxtext": Environment(
        python="python3.12",
        installs=(
            (
                *(
                    "maxtext==0.2.5",
                    "jax",
                    "jaxlib",
                    "flax",
                    "optax",
                    "orbax-checkpoint",
                    "absl-py",
                    "aqtp",
                    "array-record",
                ),
                *("chex", "datasets", "drjax", "grain[parquet]", "jaxtyping", "jinja2", "jsonlines", "ml-collections"),
                *(
                    "omegaconf",
                    "pathwaysutils",
                    "pillow",
                    "psutil",
                    "pydantic",
                    "qwix",
                    "sentencepiece",
                    "seqio",
                    "sympy",
                ),
                *("tensorboardx", "tensorflow", "tensorflow-datasets", "tensorflow-text", "tiktoken", "tokamax!=0.1.0"),
                "transformers",
            ),
        ),
    ),
}


def interpreter(directory: Path, peer: str) -> Path:
    """Return the Python interpreter of an environment. Raise UserError if the environment does not exist."""
    found = directory / peer / "bin" / "python"
    if not (directory / peer / "installed").exists():
        raise UserError(
            f"environment of {peer} not found in {directory} (--environments). Nearest: python -m benchmarks.environments {peer} --environments {directory}."
        )
    return found.absolute()


def make(peer: str, directory: Path, python: str | None = None) -> Path:
    """Create an environment if it does not exist, with uv if it is installed. Raise UserError if the interpreter is not found or a command fails."""
    wanted, place = ENVIRONMENTS[peer], directory / peer
    if (place / "installed").exists():
        return place
    chosen = python or wanted.python or sys.executable
    found = shutil.which(chosen)
    if found is None:
        raise UserError(f"interpreter {chosen} for {peer} not found. Nearest: --python {peer}=PATH.")
    uv = shutil.which("uv")
    create = [uv, "venv", "--python", found, str(place)] if uv else [found, "-m", "venv", str(place)]
    bin_python = str((place / "bin" / "python").absolute())
    install = [uv, "pip", "install", "--python", bin_python] if uv else [bin_python, "-m", "pip", "install", "-q"]
    for command in (create, *([*install, *arguments] for arguments in wanted.installs)):
        print(" ".join(command), file=sys.stderr, flush=True)
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            raise UserError(
                f"{peer}: {' '.join(command)} failed with exit code {code} (to use another interpreter: --python {peer}=PATH)"
            )
    (place / "installed").touch()
    return place


def main(words: Sequence[str] | None = None) -> None:
    """Create the given environments, or all. If one fails, continue with the others."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.environments", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--environments", type=Path, default=Path(DIRECTORY), metavar="DIR")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter for a peer")
    chosen = parser.parse_args(words)
    pythons = dict(pair.partition("=")[::2] for pair in chosen.python)
    failed = False
    for peer in chosen.peers or list(ENVIRONMENTS):
        try:
            if peer not in ENVIRONMENTS:
                raise UserError(f"unknown peer {peer!r}.{nearest(peer, ENVIRONMENTS)}")
            print(f"{peer}: {make(peer, chosen.environments.absolute(), pythons.get(peer))}")
        except UserError as error:
            print(error, file=sys.stderr)
            failed = True
    sys.exit(2 if failed else 0)


if __name__ == "__main__":
    main()
