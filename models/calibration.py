"""Calibrate the quantized kernels of a network on a batch, one layer after the other (GPTQ, `t2t.nn.weights.gptq`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.errors import UserError
from t2t.models.walking import Step
from t2t.nn.linear import Linear
from t2t.nn.linear_inputs import LinearInputs, Sums, recorded
from t2t.nn.mixers import Context, Handed
from t2t.nn.parameters import modules, rebind, unbind
from t2t.nn.weights import dequantized, quantized
from t2t.nn.weights.gptq import calibrated, output_error
from t2t.types import Params

if TYPE_CHECKING:
    from t2t.models.transformer import Stack

PLACES = 4096
"""Rows pass through a layer together up to this number of positions, at least one row."""

Errors = dict[str, list[tuple[float, float]]]
"""For each kernel, the errors of its layers' outputs (`output_error`): calibrated, and rounded to the nearest values."""


class _Rows(NamedTuple):
    """Some rows between two layers. given: fields of the context with a row for each of them; handed: see `Context.handed`."""

    x: jax.Array
    given: dict[str, Any]
    handed: Any = None


class _Layer(NamedTuple):
    """The compiled functions of a layer: (params, rows) -> rows after it, and (params, rows) -> sums of the inputs of its linear layers."""

    apply: Callable[[Params, _Rows], _Rows]
    sums: Callable[[Params, _Rows], Sums]


class Calibration:
    """Calibrates the kernels with these paths, in the order in which the layers are applied.

    All rows pass through a layer with float kernels, to find the inputs of its linear layers, and then through the same layer with the quantized kernels. So the
    inputs of a layer are those that it has after the quantized layers before it. Only the sums of one layer are in memory at a time.

    network: with float parameters. `walk` is for `t2t.models.walking`.
    ordered: see `t2t.nn.weights.gptq.calibrated`.
    """

    def __init__(self, network: nnx.Module, format: str, kernels: Collection[str], *, ordered: bool) -> None:
        self.errors: Errors = {}
        self._format, self._kernels, self._ordered = format, kernels, ordered
        self._paths = {id(linear): f"{path}/kernel" for path, linear in modules(network, Linear).items()}
        self._parts: dict[str, dict[int | None, dict[str, jax.Array]]] = {}

    def walk(self, stack: Stack, x: jax.Array, context: Context) -> jax.Array:
        """Calibrate the layers of a stack and return their output. Kernels that another stack has too are calibrated in the first one."""
        rows = _divided(x, context)
        layer = cache(lambda place: _compiled(stack, steps[place], bidirectional=context.bidirectional))
        steps = {step.place: step for step in stack.in_order()}
        for step in stack.in_order():
            rows = self._through(step, layer(step.place), _params(step), rows)
        return jnp.concatenate([some.x for some in rows])

    def compressed(self, params: Params) -> Params:
        """Return the parameters with the calibrated kernels. Raises UserError if the network did not use all of them."""
        flat = flatten_dict(params, sep="/")
        for kernel in sorted(self._kernels):
            if kernel not in self._parts:
                raise UserError(
                    f"the kernel {kernel} cannot be calibrated: the model does not use it to predict the targets of a task."
                    " Nearest: --quantize of t2t infer, eval and export, which rounds to the nearest values."
                )
            layers = self._parts[kernel]
            stacked = flat.pop(kernel).ndim == 3
            for name in next(iter(layers.values())):
                each = [layers[index][name] for index in (range(len(layers)) if stacked else (None,))]
                flat[f"{kernel}/{name}"] = jnp.stack(each) if stacked else each[0]
        nested: Params = unflatten_dict(flat, sep="/")
        return nested

    def _through(self, step: Step, layer: _Layer, params: Params, rows: list[_Rows]) -> list[_Rows]:
        """Calibrate the kernels of a layer, and return the rows after it."""
        linears = modules(step.block, Linear)
        local = {name: path for name, linear in linears.items() if (path := self._paths[id(linear)]) in self._kernels}
        if any(step.part not in self._parts.get(path, {}) for path in local.values()):
            sums = self._sums(step, layer, params, rows)
            for name, path in local.items():
                self._calibrate(path, step.part, _kernel(params, name), sums.get(name))
        flat = flatten_dict(params, sep="/")
        for name, path in local.items():
            inputs = flat[f"{name}/kernel"].shape[0]
            flat[f"{name}/kernel"] = dequantized(self._format, self._parts[path][step.part], inputs)
        params = unflatten_dict(flat, sep="/")
        for _ in range(step.times):
            rows = [layer.apply(params, some) for some in rows]
        return rows

    def _sums(self, step: Step, layer: _Layer, params: Params, rows: list[_Rows]) -> Sums:
        """Return the sums over all rows, and over all layers that have these parameters."""
        total: Sums = {}
        for some in rows:
            for time in range(step.times):
                for name, gram in layer.sums(params, some).items():
                    total[name] = total[name] + gram if name in total else gram
                some = layer.apply(params, some) if time + 1 < step.times else some
        return total

    def _calibrate(self, path: str, index: int | None, kernel: jax.Array, gram: jax.Array | None) -> None:
        """Quantize a kernel. Without inputs, its values are rounded to the nearest ones."""
        layers = self._parts.setdefault(path, {})
        if index in layers:
            return
        found, errors = _calibrated(self._format, kernel, gram, ordered=self._ordered)
        layers[index] = found
        if errors is not None:
            calibrated_error, nearest_error = map(float, errors)
            self.errors.setdefault(path, []).append((calibrated_error, nearest_error))


@partial(jax.jit, static_argnames=("format", "ordered"))
def _calibrated(
    format: str, kernel: jax.Array, gram: jax.Array | None, *, ordered: bool
) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array] | None]:
    """Return the parts of a kernel and the two errors of `Errors`, None without inputs."""
    nearest = quantized(format, kernel)
    if gram is None:
        return nearest, None
    parts = calibrated(format, kernel, gram, ordered=ordered)
    one, other = (output_error(kernel, dequantized(format, found, len(kernel)), gram) for found in (parts, nearest))
    return parts, (one, other)


def _params(step: Step) -> Params:
    """Return the parameters of a layer."""
    params = unbind(step.block)[1]
    if step.part is None:
        return params
    taken: Params = jax.tree.map(lambda leaf: leaf[step.part], params)
    return taken


def _kernel(params: Params, name: str) -> jax.Array:
    kernel: jax.Array = flatten_dict(params, sep="/")[f"{name}/kernel"]
    return kernel


def _divided(x: jax.Array, context: Context) -> list[_Rows]:
    """Return the rows of a batch, some at a time."""
    names = ("segments", "positions", "prefix", "memory", "memory_segments")
    given = {name: value for name in names if (value := getattr(context, name)) is not None}
    count, length = x.shape[:2]
    some = max(1, PLACES // length)
    return [
        _Rows(
            x[start : start + some],
            {name: value[start : start + some] if len(value) == count else value for name, value in given.items()},
        )
        for start in range(0, count, some)
    ]


def _compiled(stack: Stack, step: Step, *, bidirectional: bool) -> _Layer:
    """Return the functions of the layers at one place of a stack."""
    graph = unbind(step.block)[0]

    def prepared(params: Params, rows: _Rows) -> tuple[Any, Context]:
        context = Context(**rows.given, bidirectional=bidirectional)
        own = stack.contexts(context)[step.place]
        return rebind(graph, params), dataclasses.replace(own, handed=rows.handed)

    def apply(params: Params, rows: _Rows) -> _Rows:
        block, context = prepared(params, rows)
        out, _ = block(rows.x, context)
        return _Rows(out.output, rows.given, out.values) if isinstance(out, Handed) else rows._replace(x=out)

    def sums(params: Params, rows: _Rows) -> Sums:
        block, context = prepared(params, rows)
        names = {id(linear): name for name, linear in modules(block, Linear).items()}
        inputs = LinearInputs(names, context.segments, context.memory_segments)
        with recorded(inputs):
            block(rows.x, context)
        return inputs.sums

    return _Layer(jax.jit(apply), jax.jit(sums))
