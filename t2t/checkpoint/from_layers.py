"""Parameters of a model from some of the layers of a deeper one, as DistilBERT starts (Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 2)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from flax.traverse_util import unflatten_dict

from t2t.checkpoint.tree import flatten, shape_table
from t2t.errors import UserError
from t2t.types import Params

_IN_STACK = re.compile(r"(?P<stack>.+?)/(?P<part>first|layers|tail)/(?P<rest>.+)")


class _Address(NamedTuple):
    """Where a parameter of a layer is. row: its place on the first axis; None if the parameter is not stacked."""

    path: str
    row: int | None


_Stack = dict[tuple[int, str], _Address]
"""(layer, name of a parameter in it) -> its address."""


def params_of_layers(source: Params, want: Params, layers: Sequence[int] = ()) -> Params:
    """Return the parameters of `source` under the names that they have in a model with other layers.

    Parameters outside of stacks of layers keep their names. Layers may be stacked, and repeat a pattern, in any way.

    source: nested dict of arrays.
    want:   nested dict of arrays or shapes: the parameters of the other model.
    layers: for each layer of each stack of the other model, the layer of the same stack of `source`, from 0. () spaces them evenly, from the first on.

    Raises UserError if a layer does not exist, or if the layer that should be taken has other parameters.
    """
    theirs, ours = _stacks(shape_table(source)), _stacks(shape_table(want))
    values = flatten(source)
    within = {address.path for stack in theirs.values() for address in stack.values()}
    found = {path: value for path, value in values.items() if path not in within}
    for name in ours.keys() & theirs.keys():
        taken = _chosen(name, layers, _depth(ours[name]), _depth(theirs[name]))
        stacked = defaultdict(list)
        for (layer, rest), address in sorted(ours[name].items(), key=lambda item: item[1].row or 0):
            if (taken[layer], rest) not in theirs[name]:
                raise UserError(
                    f"start_from.layers (--start-from.layers): layer {taken[layer]} of the {name} of the source has no {rest}, which layer {layer} needs."
                    " Choose layers of the same kind."
                )
            path, row = theirs[name][taken[layer], rest]
            value = values[path] if row is None else values[path][row]
            if address.row is None:
                found[address.path] = jnp.copy(
                    value
                )  # a training step donates the parameters: no two are the same array
            else:
                stacked[address.path].append(value)
        found |= {path: jnp.stack(each) for path, each in stacked.items()}
    nested: Params = unflatten_dict(found, sep="/")
    return nested


def _chosen(stack: str, layers: Sequence[int], depth: int, available: int) -> Sequence[int]:
    if not layers:
        return [layer * available // depth for layer in range(depth)]
    where = f"start_from.layers {' '.join(map(str, layers))} (--start-from.layers)"
    if len(layers) != depth:
        raise UserError(f"{where} has {len(layers)} layers, but the {stack} has {depth}. Nearest: {depth} layers.")
    if wrong := [layer for layer in layers if layer >= available]:
        raise UserError(
            f"{where}: the {stack} of the source has no layer {wrong[0]}, only {available} layers from 0 on. Nearest: {available - 1}."
        )
    return layers


def _depth(stack: _Stack) -> int:
    return 1 + max(layer for layer, _ in stack)


def _stacks(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, _Stack]:
    """Return the stacks of a model by name, see `t2t.models.transformer.Stack` for the names of their parameters."""
    matched = {path: found for path in shapes if (found := _IN_STACK.fullmatch(path))}
    stacks: dict[str, _Stack] = {}
    for name in {found["stack"] for found in matched.values()}:
        parts: dict[str, dict[str, str]] = {"first": {}, "layers": {}, "tail": {}}
        for path, found in matched.items():
            if found["stack"] == name:
                parts[found["part"]][found["rest"]] = path
        before = len({rest.split("/")[0] for rest in parts["first"]})
        numbered = all(rest.split("/")[0].isdigit() for rest in parts["layers"])
        places = len({rest.split("/")[0] for rest in parts["layers"]}) if numbered else 1
        repeats = shapes[next(iter(parts["layers"].values()))][0] if parts["layers"] else 0
        stack: _Stack = {}
        for part, start in (("first", 0), ("tail", before + repeats * places)):
            for rest, path in parts[part].items():
                place, _, own = rest.partition("/")
                stack[start + int(place), own] = _Address(path, None)
        for rest, path in parts["layers"].items():
            number, _, own = rest.partition("/") if numbered else ("0", "", rest)
            for row in range(repeats):
                stack[before + row * places + int(number), own] = _Address(path, row)
        stacks[name] = stack
    return stacks
