"""What of a checkout is copied to other machines: the files that git tracks, so that no key, no data and no run goes with them."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from t2t.errors import UserError

SHIPPED = "t2t-source"
"""What the copy is called."""


def pack(source: str) -> str:
    """Return the shell command that writes the tracked files of a checkout, as they are now, to standard output as a tar archive."""
    there = shlex.quote(source)
    return f"git -C {there} ls-files -z --recurse-submodules | tar -C {there} --null -T - -cf -"


def check(source: str, words: Sequence[str], prog: str) -> None:
    """Refuse a checkout whose tracked files cannot be told or are gone, and files of the command line that would be left behind.

    words: the command to be run there, whose own Python files must be among those copied. Raises UserError.
    """
    tracked = _list(source, prog)
    if gone := _git(source, "ls-files", "-z", "--deleted"):
        raise UserError(
            f"{prog}: {gone[0]} in --source {source!r} is tracked by git and not there. Nearest: git checkout."
        )
    for word in words:
        path = Path(word.partition(":")[0])
        if path.suffix != ".py" or not path.is_file():
            continue
        try:
            inside = path.resolve().relative_to(Path(source).resolve()).as_posix()
        except ValueError:
            raise UserError(f"{prog}: {path} lies outside of --source {source!r}, and would not be copied") from None
        if inside not in tracked:
            raise UserError(f"{prog}: {path} is not tracked by git, and would not be copied. Nearest: git add {path}.")


def _list(source: str, prog: str) -> set[str]:
    try:
        found = _git(source, "ls-files", "-z", "--recurse-submodules")
    except FileNotFoundError:
        raise UserError(f"{prog}: only files that git tracks are copied, and there is no git here") from None
    except subprocess.CalledProcessError:
        found = []
    if "setup.py" not in found:
        raise UserError(
            f"{prog}: only files that git tracks are copied, and --source {source!r} has no setup.py that git tracks."
            " Nearest: a clone of this repository."
        )
    return set(found)


def _git(source: str, *words: str) -> list[str]:
    done = subprocess.run(["git", "-C", source, *words], capture_output=True, check=True)
    return [name for name in done.stdout.decode(errors="surrogateescape").split("\0") if name]
