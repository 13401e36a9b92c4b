"""What a step would need, without compiling it: coarse, and fast enough to go through hundreds of configurations."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from dataclasses import dataclass
from typing import Any

import jax

from t2t.optim import Adafactor
from t2t.optim.paths import flatten_specs
from t2t.optim.trainable import merge, split, trainable_specs
from t2t.plan import flops
from t2t.plan.collectives import Collective
from t2t.plan.memory import Memory, bytes_a_device, state_bytes
from t2t.plan.topology import Topology
from t2t.sharding import AXES, DEFAULT_RULES, MeshConfig, platform
from t2t.train.experiment import Experiment
from t2t.train.program import Program

MARGIN = 1.05
"""On estimated temporaries, for what is not estimated; compiled programs decide."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A step's needs as estimated: memory and traffic of one device, what it sends, and operations over all of them."""

    memory: Memory
    moved: float
    sent: tuple[Collective, ...]
    flops: flops.Flops


@dataclass(frozen=True)
class _Row:
    """What one row of the batch costs with one policy of rematerialisation: bytes kept for the backward pass, whole and divisible by `tensor`.

    beyond: what a layer takes beyond what it kept when the gradient of its largest array, attention's, is made: what its feed-forward kept is
            free again by then. Divisible by `tensor`.
    """

    whole: float
    divided: float
    beyond: float
    operations: flops.Flops


_rows: dict[str, _Row] = {}


def _row(experiment: Experiment) -> _Row:
    key = repr((experiment.model, experiment.data, experiment.objective, experiment.trainable, platform()))
    if key not in _rows:
        _rows[key] = _trace(experiment)
    return _rows[key]


def _trace(experiment: Experiment) -> _Row:
    program = Program.of(experiment, _one_device_mesh())
    model = program.model
    embed, mlp = _sizes(model.specs, "embed"), _sizes(model.specs, "mlp")
    shapes = {spec.shape for spec in flatten_specs(model.specs).values()}
    state, batch = flops.plain(program.abstract_state()), flops.plain(program.abstract_batch())

    def residuals(trainable: Any, frozen: Any, key: Any, batch: Any) -> Any:
        def minimised(trainable: Any) -> jax.Array:
            return experiment.objective.loss(model, merge(trainable, frozen), batch, key).objective

        return jax.vjp(minimised, trainable)[1]

    whole = divided = largest = freed = 0.0
    layers = {spec.shape[0] for spec in flatten_specs(model.specs).values() if spec.axes[:1] == ("layers",)}
    for leaf in jax.tree.leaves(jax.eval_shape(residuals, *split(state.params, program.specs), state.key, batch)):
        stacked = len(leaf.shape) > 2 and leaf.shape[0] in layers
        if not stacked or leaf.shape in shapes or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if leaf.shape[-1] in embed or leaf.shape[-1] == 1:
            whole += size
            continue
        divided += size
        if leaf.shape[-1] in mlp:
            freed += size / leaf.shape[0]
        else:
            largest = max(largest, size / leaf.shape[0])
    return _Row(whole, divided, max(largest - freed, 0.0), flops.count(program))


def _sizes(specs: Any, axis: str) -> set[int]:
    """Return the sizes that a logical axis has among the parameters."""
    every = flatten_specs(specs).values()
    return {size for spec in every for size, own in zip(spec.shape, spec.axes, strict=True) if own == axis}


@functools.cache
def _one_device_mesh() -> Any:
    return MeshConfig(data=1).build(jax.devices()[:1])


def _one_row(experiment: Experiment, **changes: Any) -> _Row:
    data = dataclasses.replace(experiment.data, batch_size=1)
    model = dataclasses.replace(experiment.model, **changes) if changes else experiment.model
    mesh = MeshConfig(data=1)
    return _row(dataclasses.replace(experiment, data=data, model=model, mesh=mesh, microbatches=1))


def estimate(program: Program, topology: Topology) -> Estimate:
    """Return what a program's step would need.

    Activations follow from the trace of one row. Temporaries are what the fuller of two moments needs besides: the backward pass (logits, or a layer: what
    was kept of it, cut out of what was kept of all, or is computed again) or the update. What is sent follows from how
    parameters are divided (gathered before use, gradients scattered, partial sums of products with divided kernels added up).
    """
    experiment, mesh = program.experiment, program.mesh
    sizes = {name: mesh.shape[name] for name in AXES}
    rows = experiment.data.batch_size / sizes["data"] / sizes["fsdp"] / experiment.microbatches
    kept = _one_row(experiment)
    layer = kept if experiment.model.execution.get("remat", "none") == "none" else _one_row(experiment, remat="none")
    length = sizes["context"]

    def held(row: _Row) -> float:
        return rows / length * (row.whole + row.divided / sizes["tensor"])

    specs = flatten_specs(program.model.specs)
    depth = max(_depth(specs), 1)
    wide = 2 if experiment.model.dtype == "bfloat16" else 4
    logits = logits_bytes(program)
    gathered = _gathered(program.specs, program) * wide
    state = state_bytes(program)
    again = held(layer) / depth + rows / length / sizes["tensor"] * layer.beyond
    used = 3 * gathered / depth if wide < 4 or sizes["fsdp"] > 1 else 0.0
    on_cpu = platform() == "cpu"
    # The CPU's compiler puts the logits' gradient beside them, others in their place.
    backward = max(2 * logits if on_cpu else logits, again) + used
    # It also holds what Adafactor makes of each gradient; whatever else is updated is updated in place.
    update = 2 * state.gradients if on_cpu and isinstance(experiment.optimizer, Adafactor) else 0.0
    temporaries = max(backward, update - held(kept))
    memory = dataclasses.replace(state, activations=held(kept), temporaries=MARGIN * temporaries)
    operations = flops.Flops(
        model=kept.operations.model * experiment.data.batch_size,
        hardware={dtype: n * experiment.data.batch_size for dtype, n in kept.operations.hardware.items()},
    )
    times = experiment.microbatches
    moved = times * (3 * gathered + 3 * held(layer) + 6 * logits) + 2 * (
        state.gradients + state.optimizer + times * state.gradients  # the update touches trainable parameters alone
    )
    return Estimate(memory=memory, moved=moved, sent=_sent(program, topology, rows, wide, gathered), flops=operations)


def _depth(specs: dict[str, Any]) -> int:
    """Return how many layers the stacks have with parameters of their own: "layers" stacks them over depth, for each place of a pattern; "tail" does not."""
    found: dict[str, int] = {}
    for path, spec in specs.items():
        kind = re.match(r"(.*?/)?(layers(?=/)|tail/\d+)(/\d+(?=/))?", path)
        if kind is not None:
            found[kind[0]] = spec.shape[0] if spec.axes[:1] == ("layers",) else 1
    return sum(found.values())


def logits_bytes(program: Program) -> float:
    """Return what float32 logits take at a time on a device, in bytes: a block of them, see `t2t.chunked_cross_entropy`."""
    experiment, shape = program.experiment, program.mesh.shape
    places = experiment.data.batch_size * flops.plain(program.abstract_batch()).targets.shape[1]
    places /= shape["data"] * shape["fsdp"] * shape["context"] * experiment.microbatches
    words = experiment.model.output == "tokens"  # other heads' logits are not divided
    places = experiment.objective.places_at_once(experiment.model, places)
    scored = experiment.model.num_outputs(experiment.data.inputs_length)
    return 4 * places * scored / (shape["tensor"] if words else 1)


def _gathered(specs: Any, program: Program) -> float:
    """Return how many of the parameters a device multiplies with: all, divided along `tensor` alone."""
    total = 0.0
    for spec in flatten_specs(specs).values():
        used = [axis for logical in spec.axes if logical for axis in DEFAULT_RULES.table[logical]]
        total += math.prod(spec.shape) / (program.mesh.shape["tensor"] if "tensor" in used else 1)
    return total


def _sent(program: Program, topology: Topology, rows: float, wide: int, gathered: float) -> tuple[Collective, ...]:
    mesh, times = program.mesh, program.experiment.microbatches
    between = program.experiment.mesh.between
    found: list[Collective] = []

    def add(kind: str, axis: str, size: float, count: float) -> None:
        group = mesh.shape[axis]
        if group > 1 and size:
            inner = math.prod(mesh.shape[name] for name in AXES[AXES.index(axis) + 1 :])
            if topology.is_tpu:
                domains = topology.slices if axis == between else 1
            else:
                domains = min(max(group * inner // max(topology.domain, inner), 1), group)
            spans = (topology.is_tpu and group >= topology.chip.wraps,) if topology.is_tpu else ()
            found.append(
                Collective(kind=kind, axes=(axis,), group=group, domains=domains, spans=spans, times=count, bytes=size)
            )

    add("all-gather", "fsdp", 2 * times * gathered, 2 * times)
    add("reduce-scatter", "fsdp", times * _gathered(trainable_specs(program.specs), program) * wide, times)
    # Gradients are summed in the type that is computed in; trainable parameters are float32.
    trainable = program.trainable(program.abstract_state().params)
    add("all-reduce", "data", times * bytes_a_device(trainable) * wide / 4, times)
    sums = 0.0
    batch = flops.plain(program.abstract_batch())
    lengths = [tokens.ids.shape[1] for tokens in (batch.encoder, batch.decoder) if tokens is not None]
    length = sum(lengths) / len(lengths)
    for spec in flatten_specs(program.model.specs).values():
        if len(spec.shape) > 1 and spec.axes[-1] == "embed" and spec.axes[-2] in ("heads", "mlp"):
            sums += spec.shape[0] if spec.axes[0] == "layers" else 1
    passes = 3 if program.experiment.model.execution.get("remat") == "full" else 2
    add(
        "all-reduce",
        "tensor",
        times
        * passes
        * sums
        * rows
        * length
        / mesh.shape["context"]
        * wide
        * max(_sizes(program.model.specs, "embed"), default=0),
        1,
    )
    return tuple(sorted(found, key=lambda item: -item.sent))
