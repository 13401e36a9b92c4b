"""Estimate the resources of a step without compiling it: rough, but fast enough to compare hundreds of configurations."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from dataclasses import dataclass
from typing import Any

import jax

from t2t.nn.capabilities import Side
from t2t.optim import Adafactor
from t2t.optim.paths import flatten_specs, path_name
from t2t.optim.trainable import merge, split, trainable_specs
from t2t.plan import flops
from t2t.plan.collectives import Collective
from t2t.plan.memory import Memory, bytes_a_device, state_bytes
from t2t.plan.topology import Topology
from t2t.sharding import AXES, DEFAULT_RULES, MeshConfig, platform
from t2t.train.experiment import Experiment
from t2t.train.program import Program

MARGIN = 1.05
"""Factor on estimated temporaries, for what the estimate leaves out."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimated resources of a step.

    memory: of one device.
    moved:  bytes to and from the memory of one device.
    sent:   collectives of one device.
    flops:  operations over all devices.
    """

    memory: Memory
    moved: float
    sent: tuple[Collective, ...]
    flops: flops.Flops


@dataclass(frozen=True)
class _Row:
    """Cost of one row of the batch with one rematerialization policy.

    unsharded:  bytes saved for the backward pass that the `tensor` axis does not shard.
    sharded:    bytes saved for the backward pass that the `tensor` axis shards.
    extra:      extra bytes that a layer needs while it computes the gradient of its largest array (attention). What the feed-forward network saved
                is already free then. The `tensor` axis shards them.
    operations: FLOPs of the row.
    """

    unsharded: float
    sharded: float
    extra: float
    operations: flops.Flops


_rows: dict[str, _Row] = {}


def _row(experiment: Experiment) -> _Row:
    parts = (experiment.model, experiment.adapter, experiment.data, experiment.objective, experiment.trainable)
    key = repr((*parts, platform()))
    if key not in _rows:
        _rows[key] = _trace(experiment)
    return _rows[key]


def _trace(experiment: Experiment) -> _Row:
    program = Program.of(experiment, _one_device_mesh())
    model = program.model
    embed, mlp = _sizes(model.float_specs, "embed"), _sizes(model.float_specs, "mlp")
    shapes = {spec.shape for specs in (model.specs, model.float_specs) for spec in flatten_specs(specs).values()}
    state, batch = flops.plain(program.abstract_state()), flops.plain(program.abstract_batch())

    def residuals(trainable: Any, frozen: Any, key: Any, batch: Any) -> Any:
        def loss(trainable: Any) -> jax.Array:
            return experiment.objective.loss(model, merge(trainable, frozen), batch, key).objective

        return jax.vjp(loss, trainable)[1]

    unsharded = sharded = largest = freed = 0.0
    layers = {spec.shape[0] for spec in flatten_specs(model.specs).values() if spec.axes[:1] == ("layers",)}
    for leaf in jax.tree.leaves(jax.eval_shape(residuals, *split(state.params, program.specs), state.key, batch)):
        stacked = len(leaf.shape) > 2 and leaf.shape[0] in layers
        if not stacked or leaf.shape in shapes or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            continue
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if leaf.shape[-1] in embed or leaf.shape[-1] == 1:
            unsharded += size
            continue
        sharded += size
        if leaf.shape[-1] in mlp:
            freed += size / leaf.shape[0]
        else:
            largest = max(largest, size / leaf.shape[0])
    return _Row(unsharded, sharded, max(largest - freed, 0.0), flops.count(program))


def _sizes(specs: Any, axis: str) -> set[int]:
    """Return all sizes of a logical axis in the parameters."""
    every = flatten_specs(specs).values()
    return {size for spec in every for size, name in zip(spec.shape, spec.axes, strict=True) if name == axis}


def _leaves(params: Any) -> list[tuple[str, Any]]:
    """Return the paths and the leaves of a tree of parameters."""
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]


@functools.cache
def _one_device_mesh() -> Any:
    return MeshConfig(data=1).build(jax.devices()[:1])


def _one_row(experiment: Experiment, **changes: Any) -> _Row:
    data = dataclasses.replace(experiment.data, batch_size=1)
    model = dataclasses.replace(experiment.model, **changes) if changes else experiment.model
    mesh = MeshConfig(data=1)
    return _row(dataclasses.replace(experiment, data=data, model=model, mesh=mesh, microbatches=1))


def estimate(program: Program, topology: Topology) -> Estimate:
    """Return an estimate of the resources of a program's step.

    Activations come from the trace of one row. Temporaries are the larger of two peaks. One is the backward pass: it holds the logits, or the
    activations of one layer (sliced from the saved activations of all layers, or recomputed). The other is the optimizer update. Communication
    comes from the sharding of the parameters: all-gathers before use, reduce-scatters of gradients, and all-reduces of partial sums after
    products with sharded kernels; and from the tokens that go to the devices of their experts.
    """
    experiment, mesh = program.experiment, program.mesh
    sizes = {name: mesh.shape[name] for name in AXES}
    ways = sizes["data"] * sizes["fsdp"] * sizes["expert"]
    rows = experiment.data.batch_size / ways / experiment.microbatches
    kept = _one_row(experiment)
    layer = kept if experiment.model.execution.get("remat", "none") == "none" else _one_row(experiment, remat="none")
    length = sizes["context"]

    def held(row: _Row) -> float:
        return rows / length * (row.unsharded + row.sharded / sizes["tensor"])

    specs = flatten_specs(program.model.specs)
    depth = max(_depth(specs), 1)
    itemsize = 2 if experiment.model.dtype == "bfloat16" else 4
    logits = logits_bytes(program)
    gathered = _gathered(program.specs, program, itemsize)
    state = state_bytes(program)
    layer_bytes = held(layer) / depth + rows / length / sizes["tensor"] * layer.extra
    used = 3 * gathered / depth if itemsize < 4 or sizes["fsdp"] > 1 else 0.0
    used += _dequantized(program) * itemsize / sizes["tensor"]
    on_cpu = platform() == "cpu"
    # The CPU compiler stores the gradient of the logits separately; other compilers reuse their memory.
    backward = max(2 * logits if on_cpu else logits, layer_bytes) + used
    # The CPU compiler also stores Adafactor's update of each gradient. Other updates happen in place.
    update = 2 * state.gradients if on_cpu and isinstance(experiment.optimizer, Adafactor) else 0.0
    # A state in host memory is on the device during the update.
    temporaries = max(backward, update + state.host - held(kept))
    memory = dataclasses.replace(state, activations=held(kept), temporaries=MARGIN * temporaries)
    operations = flops.Flops(
        model=kept.operations.model * experiment.data.batch_size,
        hardware={dtype: n * experiment.data.batch_size for dtype, n in kept.operations.hardware.items()},
    )
    times = experiment.microbatches
    moved = times * (3 * gathered + 3 * held(layer) + 6 * logits) + 2 * (
        state.gradients + state.optimizer + state.ema + times * state.gradients  # only trainable parameters are updated
    )
    return Estimate(
        memory=memory, moved=moved, sent=_sent(program, topology, rows, itemsize, gathered), flops=operations
    )


def _depth(specs: dict[str, Any]) -> int:
    """Return the number of layers with their own parameters. "layers" stacks layers over depth, one stack per pattern position; "first" and "tail" do not."""
    found: dict[str, int] = {}
    for path, spec in specs.items():
        kind = re.match(r"(.*?/)?(layers(?=/)|(?:first|tail)/\d+)(/\d+(?=/))?", path)
        if kind is not None:
            found[kind[0]] = spec.shape[0] if spec.axes[:1] == ("layers",) else 1
    return sum(found.values())


def logits_bytes(program: Program) -> float:
    """Return the bytes of float32 logits that a device holds at one time: one block, see `t2t.chunked_cross_entropy`."""
    experiment, shape = program.experiment, program.mesh.shape
    places = experiment.data.batch_size * flops.plain(program.abstract_batch()).targets.shape[1]
    places /= shape["data"] * shape["fsdp"] * shape["expert"] * shape["context"] * experiment.microbatches
    sharded = experiment.model.output == "tokens"  # the logits of other heads are not sharded
    places = experiment.objective.places_at_once(experiment.model, places)
    outputs = experiment.model.num_outputs(experiment.data.inputs_length)
    return 4 * places * outputs / (shape["tensor"] if sharded else 1)


def _gathered(specs: Any, program: Program, itemsize: int) -> float:
    """Return the bytes of the parameters that a device computes with: all of them, sharded over `tensor` and `expert` only. itemsize: of floats."""
    total = 0.0
    for spec in flatten_specs(specs).values():
        used = [axis for logical in spec.axes if logical for axis in DEFAULT_RULES.table[logical]]
        parts = math.prod(program.mesh.shape[axis] for axis in ("tensor", "expert") if axis in used)
        total += math.prod(spec.shape) * (itemsize if spec.stands_for is None else spec.dtype.itemsize) / parts
    return total


def _dequantized(program: Program) -> int:
    """Return the number of values of the largest quantized kernel of a layer, which exists as floats while it is used."""
    floats = flatten_specs(program.model.float_specs)
    return max((math.prod(floats[path].shape[-2:]) for path in program.model.quantized_kernels), default=0)


def _sent(program: Program, topology: Topology, rows: float, itemsize: int, gathered: float) -> tuple[Collective, ...]:
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
    add("reduce-scatter", "fsdp", times * _gathered(trainable_specs(program.specs), program, itemsize), times)
    # Gradients are summed in the compute dtype; trainable parameters are float32.
    trainable = program.trainable(program.abstract_state().params)
    add("all-reduce", "data", times * bytes_a_device(trainable) * itemsize / 4, times)
    # Along "expert", devices have copies of all parameters but the kernels of experts.
    flat = flatten_specs(program.specs)
    copied = [leaf for path, leaf in _leaves(trainable) if "experts" not in flat[path].axes]
    add("all-reduce", "expert", times * bytes_a_device(copied) * itemsize / 4, times)
    sums = 0.0
    batch = flops.plain(program.abstract_batch())
    sides: dict[Side, Any] = {"encoder": batch.encoder, "decoder": batch.decoder}
    lengths = {side: tokens.ids.shape[1] for side, tokens in sides.items() if tokens is not None}
    length = sum(lengths.values()) / len(lengths)
    for spec in flatten_specs(program.model.float_specs).values():
        if len(spec.shape) > 1 and spec.axes[-1] == "embed" and spec.axes[-2] in ("heads", "mlp"):
            sums += spec.shape[0] if spec.axes[0] == "layers" else 1
    passes = 3 if program.experiment.model.execution.get("remat") == "full" else 2
    for kind, numbers in program.experiment.model.sent_to_experts(lengths).items():
        # The backward pass sends as much: an all-gather becomes a reduce-scatter, and the reverse.
        together = 1 if kind == "all-to-all" else mesh.shape["expert"]
        size = rows * together * numbers / mesh.shape["context"] * itemsize
        add(kind, "expert", times * passes * size, times * passes)
    add(
        "all-reduce",
        "tensor",
        times
        * passes
        * sums
        * rows
        * length
        / mesh.shape["context"]
        * itemsize
        * max(_sizes(program.model.float_specs, "embed"), default=0),
        1,
    )
    return tuple(sorted(found, key=lambda item: -item.sent))
