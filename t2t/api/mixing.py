"""Several LoRA adapters on one base run, mixed in the batches of a generation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.adapters import is_of_adapter
from t2t.adapters.bank import attach_bank, side_by_side
from t2t.api.lengths import Rows
from t2t.errors import UserError, nearest
from t2t.nn.adapters import NONE
from t2t.nn.model import EXECUTION, RATES, START, Model
from t2t.train.run import SavedRun
from t2t.types import Params


@dataclass(frozen=True)
class Mixture:
    """A model with the adapters of several runs.

    names:  directories of the runs; the number of an adapter is its place here.
    params: the base run's parameters, which are not copied, and the adapters'.
    """

    names: tuple[str, ...]
    model: Model
    params: Params

    def numbers(self, chosen: Sequence[str | None]) -> list[int]:
        """Return the numbers of adapters, given their names or None."""
        return [NONE if name is None else self.names.index(name) for name in chosen]


def with_adapters(rows: Rows, adapters: Sequence[str | os.PathLike[str] | None]) -> list[dict[str, Any]]:
    """Return the rows with the name of their adapter. Raises UserError if there is not one for each row."""
    if isinstance(adapters, str | bytes | os.PathLike):
        raise UserError(f"adapters is one path. Nearest: a list with a path or None for each text, [{adapters!r}].")
    if len(adapters) != len(rows):
        raise UserError(f"{len(rows)} texts and {len(adapters)} adapters: the numbers must be equal.")
    names = (None if one is None else os.fspath(one) for one in adapters)
    return [{**row, "adapter": name} for row, name in zip(rows, names, strict=True)]


def chosen_in(rows: Rows, given: Sequence[str], name: Any) -> list[dict[str, Any]]:
    """Return the rows with the name of their adapter: that of their field "adapter" (null for none), or the only one that is given.

    given: the values of --adapter, at least one.
    name:  returns the name of the i-th row, for errors.
    Raises UserError if a row does not say which of several adapters it uses, or names another.
    """
    found = []
    for i, row in enumerate(rows):
        if "adapter" not in row and len(given) > 1:
            raise UserError(
                f"{name(i)}: --adapter is given {len(given)} times, and the row has no field 'adapter'. Nearest: \"adapter\": {given[0]!r}, in a .jsonl file."
            )
        adapter = row.get("adapter", given[0])
        if adapter is not None and adapter not in given:
            raise UserError(
                f"{name(i)}: the field 'adapter' is {adapter!r}, which --adapter does not name.{nearest(str(adapter), given)}"
            )
        found.append({**row, "adapter": adapter})
    return found


def mixture_of(base: SavedRun, params: Params, names: Sequence[str]) -> Mixture:
    """Return a run's model with the adapters of other runs.

    params: the base run's parameters.
    names:  directories of runs that trained a LoRA beside the parameters of `base`.
    Raises UserError if the base run has an adapter, or if another run is not such a run.
    """
    experiment = base.experiment
    if experiment.adapter.enabled:
        raise UserError(f"adapters: {base.directory} has an adapter itself. Nearest: the run that it started from.")
    runs = [SavedRun.load(name) for name in names]
    flat = flatten_dict(params, sep="/")
    own = []
    for name, run in zip(names, runs, strict=True):
        _check_kind(name, run, base)
        theirs = flatten_dict(run.params(), sep="/")
        _check_base(name, run, base, theirs, flat)
        own.append(unflatten_dict({path: x for path, x in theirs.items() if is_of_adapter(path)}, sep="/"))
    adapters = [run.experiment.adapter for run in runs]
    model = experiment.model.portable().build().adapted(partial(attach_bank, adapters=adapters))
    model = model.quantized(_format(base), base.model.quantized_kernels.__contains__)
    bank = flatten_dict(side_by_side(adapters, own), sep="/")
    return Mixture(tuple(names), model, unflatten_dict({**flat, **bank}, sep="/"))


def _check_kind(name: str, run: SavedRun, base: SavedRun) -> None:
    """Raise UserError if the run has no LoRA, trained other parameters as well, or is of another model."""
    adapter = run.experiment.adapter
    if not adapter.enabled or adapter.kind != "lora":
        what = f"an adapter of kind {adapter.kind!r}" if adapter.enabled else "no adapter"
        raise UserError(
            f"adapter {name}: the run has {what}, and only those of kind 'lora' can be mixed. Nearest: t2t infer {name}."
        )
    if adapter.trained:
        raise UserError(
            f"adapter {name}: the run also trained {', '.join(adapter.trained)} (adapter.trained), which rows of one batch share. Nearest: t2t infer {name}."
        )
    ours, theirs = base.experiment.model, run.experiment.model
    free = {one: getattr(ours, one) for one in (*EXECUTION, *RATES, *START) if hasattr(ours, one)}
    if type(theirs) is not type(ours) or replace(theirs, **free) != ours:
        raise UserError(f"adapter {name}: its model is not that of {base.directory}. Nearest: t2t infer {name}.")
    if _format(run) != _format(base):
        advice = "t2t infer " + name if _format(run) == "none" else f"--quantize {_format(run)}"
        raise UserError(
            f"adapter {name}: it was trained beside kernels in the format {_format(run)!r}, and those of {base.directory} are in {_format(base)!r}."
            f" Nearest: {advice}."
        )


def _check_base(
    name: str, run: SavedRun, base: SavedRun, theirs: dict[str, jax.Array], own: dict[str, jax.Array]
) -> None:
    """Raise UserError if the frozen parameters of a run are not those of the base, in the dtype in which they were frozen."""
    dtype = jnp.dtype(run.experiment.trainable.frozen_dtype)
    for path, value in own.items():
        other = theirs.get(path)
        rounded = value.astype(dtype).astype(value.dtype) if value.dtype == jnp.float32 else value
        same = other is not None and (np.array_equal(other, value) or np.array_equal(other, rounded))
        if not same:
            raise UserError(
                f"adapter {name}: it was trained beside other parameters than those of {base.directory}: {path} differs. Nearest: t2t infer {name}."
            )


def _format(run: SavedRun) -> str:
    """Return the format of a run's quantized kernels."""
    return run.quantize if run.quantize != "none" else run.experiment.trainable.quantize
