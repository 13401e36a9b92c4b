"""Parameters of a step, with their running means in place of the trained ones: DIRECTORY/STEP/ema, if the run keeps a mean."""

from __future__ import annotations

from etils import epath
from flax.traverse_util import unflatten_dict

from t2t.checkpoint import frozen, store
from t2t.checkpoint.tree import flatten
from t2t.types import Params

EMA = "ema"
"""The folder with the running means, and their field in a state. It has the same paths as the trainable parameters."""


def read(path: epath.Path, abstract: Params) -> Params:
    """Return the parameters of a step that are in `abstract`: the running mean of each that has one. path: DIRECTORY/STEP.

    Raises UserError on damage. Call this on all processes.
    """
    if not (path / EMA).is_dir():
        return frozen.read(path, abstract)
    wanted = flatten(abstract)
    averaged = flatten(store.shapes(path, EMA)).keys() & wanted.keys()
    mean = {name: leaf for name, leaf in wanted.items() if name in averaged}
    rest = {name: leaf for name, leaf in wanted.items() if name not in averaged}
    found = flatten(store.read(path, EMA, unflatten_dict(mean, sep="/"))) if mean else {}
    found |= flatten(frozen.read(path, unflatten_dict(rest, sep="/"))) if rest else {}
    params: Params = unflatten_dict(found, sep="/")
    return params
