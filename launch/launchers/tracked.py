"""Select the files of a checkout to copy to other machines: only those that git tracks, so no keys, data or runs are copied."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from t2t.errors import UserError

SHIPPED = "t2t-source"
"""Name of the copy."""


def pack(source: str) -> str:
    """Return a shell command that writes the tracked files of a checkout, in their current state, to standard output as a tar archive."""
    directory = shlex.quote(source)
    return f"git -C {directory} ls-files -z --recurse-submodules | tar -C {directory} --null -T - -cf -"


def check(source: str, words: Sequence[str], prog: str) -> None:
    """Raise UserError if git cannot list the tracked files, some are missing, or the command needs a Python file that would not be copied.

    words: the command to run on the other machines.
    """
    tracked = _list(source, prog)
    if missing := _git(source, "ls-files", "-z", "--deleted"):
        raise UserError(
            f"{prog}: {missing[0]} in --source {source!r} is tracked by git but missing. Nearest: git checkout."
        )
    for word in words:
        path = Path(word.partition(":")[0])
        if path.suffix != ".py" or not path.is_file():
            continue
        try:
            inside = path.resolve().relative_to(Path(source).resolve()).as_posix()
        except ValueError:
            raise UserError(f"{prog}: {path} is outside --source {source!r}, so it would not be copied") from None
        if inside not in tracked:
            raise UserError(
                f"{prog}: {path} is not tracked by git, so it would not be copied. Nearest: git add {path}."
            )


def _list(source: str, prog: str) -> set[str]:
    try:
        found = _git(source, "ls-files", "-z", "--recurse-submodules")
    except FileNotFoundError:
        raise UserError(f"{prog}: only files that git tracks are copied, but git is not installed") from None
    except subprocess.CalledProcessError:
        found = []
    if "setup.py" not in found:
        raise UserError(
            f"{prog}: only files that git tracks are copied, but --source {source!r} has no setup.py that git tracks."
            " Nearest: a clone of this repository."
        )
    return set(found)


def _git(source: str, *words: str) -> list[str]:
    done = subprocess.run(["git", "-C", source, *words], capture_output=True, check=True)
    return [name for name in done.stdout.decode(errors="surrogateescape").split("\0") if name]
