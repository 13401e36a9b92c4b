"""Make the peers' virtual environments: `python -m benchmarks.environments [PEER ...] --environments DIR`."""

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
    """What a peer needs.

    installs: pip's arguments, a call each.
    python:   interpreter to make it with; None for the one that runs this.
    """

    installs: tuple[tuple[str, ...], ...]
    python: str | None = None


_CONSTRAINED = ("-c", "constraints.txt")
ENVIRONMENTS = {
    # PyTorch by itself first, as `make test-interop` has it: where the CPU build is to be had, pip then takes no CUDA.
    "transformers": Environment(installs=(("torch==2.13.0",), ("transformers==5.23.0", "numpy", "safetensors"))),
    # T5X asks for the newest of everything from GitHub, and for airio and jestimator, which are not on PyPI or do not import: `peers.t5x_import` stands
    # in for these two. t5's own list of dependencies cannot be resolved beside today's pandas and transformers; its preprocessors want babel alone.
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
    # MaxText names its dependencies in extras for TPUs and GPUs alone (accelerator libraries of gigabytes): these are what its pretraining imports.
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
    """Return an environment's Python. Raises UserError where it has not been made."""
    found = directory / peer / "bin" / "python"
    if not (directory / peer / "installed").exists():
        raise UserError(
            f"no environment for {peer} in {directory} (--environments). Nearest: python -m benchmarks.environments {peer} --environments {directory}."
        )
    return found.absolute()


def make(peer: str, directory: Path, python: str | None = None) -> Path:
    """Make an environment unless it is there, with uv where there is one. Raises UserError where no interpreter, or a package, is to be had."""
    wanted, place = ENVIRONMENTS[peer], directory / peer
    if (place / "installed").exists():
        return place
    chosen = python or wanted.python or sys.executable
    found = shutil.which(chosen)
    if found is None:
        raise UserError(f"no interpreter {chosen} for {peer}. Nearest: --python {peer}=PATH.")
    uv = shutil.which("uv")
    making = [uv, "venv", "--python", found, str(place)] if uv else [found, "-m", "venv", str(place)]
    bin_python = str((place / "bin" / "python").absolute())
    installing = [uv, "pip", "install", "--python", bin_python] if uv else [bin_python, "-m", "pip", "install", "-q"]
    for words in (making, *([*installing, *arguments] for arguments in wanted.installs)):
        print(" ".join(words), file=sys.stderr, flush=True)
        code = subprocess.run(words, cwd=ROOT).returncode
        if code:
            raise UserError(
                f"{peer}: exit code {code} from {' '.join(words)} (another interpreter: --python {peer}=PATH)"
            )
    (place / "installed").touch()
    return place


def main(words: Sequence[str] | None = None) -> None:
    """Make the environments that are named, or all; one that cannot be made does not keep the others from it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.environments", description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(ENVIRONMENTS))
    parser.add_argument("--environments", type=Path, default=Path(DIRECTORY), metavar="DIR")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="interpreter for a peer")
    chosen = parser.parse_args(words)
    pythons = dict(given.partition("=")[::2] for given in chosen.python)
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
