"""`t2t.Run`: a trained run, to ask, evaluate, export and train on."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2t.api.session import prepare
from t2t.train.run import SavedRun
from t2t.types import Params


@dataclass(frozen=True)
class Run(SavedRun):
    """A run at one of its checkpoints. Its parameters are read when they are first needed, and kept."""

    @functools.cached_property
    def parameters(self) -> Params:
        """The model's parameters, on this machine's devices."""
        return self.params()

    def forget_parameters(self) -> None:
        """Free the parameters' memory; they are read again when they are needed."""
        self.__dict__.pop("parameters", None)

    def train(self, *, dir: str | os.PathLike[str] | None = None, **options: Any) -> Run:
        """Resume the run in its own directory, or train on in another (`dir`), which begins with this run's parameters; see `t2t.train`.

        The objects of this run stay at their step; the returned one is at the newest.
        """
        from t2t.api.training import train

        return train(self, dir=dir, **options)


def load(
    path: str | os.PathLike[str],
    *,
    step: int | None = None,
    imports: Sequence[str] = (),
    trust_code: bool = False,
) -> Run:
    """Return a run to work with.

    Args:
      path: a run's directory.
      step: which checkpoint; the newest if None.
      imports: modules and files that register tasks or configuration classes of your own.
      trust_code: whether to run the code that the run keeps; only for runs of people you trust.

    Raises:
      UserError: there is no such run or checkpoint, or it needs code that is neither imported nor trusted.
    """
    prepare()
    from t2t.api.user_code import imports as own
    from t2t.api.user_code import run_code
    from t2t.paths import check

    with run_code.trusting(trust_code):
        own.use(imports, option="imports")
        run_code.ready(check(os.fspath(path), "path"))
        return Run.load(Path(path), step)
