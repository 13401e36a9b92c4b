"""Device memory of a step, by purpose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax

from t2t.plan.hlo import HloModule, Instruction, Region
from t2t.train.host_memory import is_in_host_memory
from t2t.train.program import Program


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Peak memory of one device, in bytes.

    parameters, optimizer, batch, ema, teacher: inputs of the step; exact. The optimizer has state for trainable parameters only, and so has the running
                 mean of the parameters (`Experiment.ema`). The teacher is the model that the objective reads.
    host:        optimizer state in the memory of the host (`OptimizerConfig.state_memory`). It is not part of the total.
    gradients:   gradients of the trainable parameters, in float32, with the same sharding as these.
    activations: values that the forward pass's loops over layers save for the backward pass.
    temporaries: all other memory that the compiler allocates: logits, intermediates of one layer, gathered parameters, fragmentation.
    code:        the program itself.
    """

    parameters: float
    optimizer: float
    batch: float
    gradients: float
    activations: float
    temporaries: float
    code: float = 0.0
    ema: float = 0.0
    teacher: float = 0.0
    host: float = 0.0

    @property
    def total(self) -> float:
        """Sum of all parts."""
        state = self.parameters + self.optimizer + self.batch + self.ema + self.teacher
        return state + self.gradients + self.activations + self.temporaries + self.code


def bytes_a_device(tree: Any) -> float:
    """Return the bytes per device of a tree of ShapeDtypeStructs with shardings. PRNG keys do not count."""
    total = 0.0
    for leaf in jax.tree.leaves(tree):
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            total += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return total


def state_bytes(program: Program) -> Memory:
    """Return the parts of a step's memory that follow from shapes and shardings. The other parts are 0."""
    state = program.abstract_state()
    parameters = bytes_a_device(state.params)
    host = bytes_a_device([leaf for leaf in jax.tree.leaves(state.opt_state) if is_in_host_memory(leaf.sharding)])
    return Memory(
        parameters=parameters,
        optimizer=bytes_a_device(state.opt_state) - host,
        batch=bytes_a_device(program.abstract_batch()),
        gradients=bytes_a_device(program.trainable(state.params)),
        activations=0.0,
        temporaries=0.0,
        ema=bytes_a_device(state.ema),
        teacher=bytes_a_device(state.teacher),
        host=host,
    )


def compiled_memory(program: Program, hlo: HloModule, analysis: Any) -> Memory:
    """Return the compiler's memory requirement (`Compiled.memory_analysis()`), split by purpose.

    The compiler only reports the total of all temporaries. Gradients follow from shapes, and activations from the values that loops carry. If the
    compiler reuses so much memory that these exceed the total, they are reduced to fit.
    """
    state = state_bytes(program)
    held = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    spare = float(analysis.temp_size_in_bytes) + max(
        held - state.parameters - state.optimizer - state.batch - state.ema - state.teacher, 0.0
    )
    activations = min(kept_for_backward(hlo), spare)
    gradients = min(state.gradients, spare - activations)
    return Memory(
        parameters=state.parameters,
        optimizer=state.optimizer,
        batch=state.batch,
        gradients=gradients,
        activations=activations,
        temporaries=spare - activations - gradients,
        code=float(analysis.generated_code_size_in_bytes),
        ema=state.ema,
        teacher=state.teacher,
        host=state.host,
    )


def kept_for_backward(hlo: HloModule) -> float:
    """Return the bytes of main memory that the forward pass's loops over layers save for the backward pass of one microbatch."""
    total = 0.0
    loops = {region.name: region for region in hlo.regions}
    for region in hlo.regions:
        if region.trips > 1 and _is_forward(region) and not any(_is_forward(loops[name]) for name in region.enclosing):
            total += _written(hlo.computations[region.name], region.trips)
    return total


def _is_forward(region: Region) -> bool:
    # JAX names the forward pass of a differentiated function jvp(...), and the backward pass transpose(jvp(...)).
    return "jvp(" in region.source and "transpose(" not in region.source


def _written(body: list[Instruction], trips: int) -> float:
    """Return the bytes of the arrays in a loop's carry that the loop writes and that have one slice per iteration."""
    by_name = {instruction.name: instruction for instruction in body}
    root = next((instruction for instruction in body if instruction.root), None)
    if root is None or root.opcode != "tuple":
        return 0.0
    total = 0.0
    for place, name in enumerate(root.operands):
        shapes = root.shapes[place : place + 1] if len(root.shapes) == len(root.operands) else by_name[name].shapes
        source = by_name.get(name)
        kept = (
            source is not None and source.opcode == "get-tuple-element" and f"index={place}" in source.rest.split(", ")
        )
        if not kept and shapes and not shapes[0].fast and len(shapes[0].sizes) > 1 and shapes[0].sizes[0] == trips:
            total += shapes[0].bytes
    return total


def traffic(hlo: HloModule) -> float:
    """Return the bytes that the compiled program moves to and from a device's main memory in a step.

    This is the sum of what each instruction reads and writes; a fusion counts as one instruction. If a fusion reads a slice of an operand, or updates
    a slice in place, only the slice counts. In a loop of n iterations, an array with a leading dimension of n counts as one slice per iteration.
    """
    total = 0.0
    for region in hlo.regions:
        body = hlo.computations[region.name]
        by_name = {instruction.name: instruction for instruction in body}
        for instruction in body:
            if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
                continue
            reads, writes = _partial_access(hlo, instruction)
            operands = [by_name.get(name) for name in instruction.operands]
            moved = _moved(instruction, region.trips) if writes is None else writes
            for place, operand in enumerate(operands):
                if operand is not None:
                    moved += reads[place] if place in reads else _moved(operand, region.trips)
            total += region.runs * moved
    return total


def _partial_access(hlo: HloModule, instruction: Instruction) -> tuple[dict[int, float], float | None]:
    """Return the bytes read of operands that are read partially, by operand index, and the bytes written if the result is written partially."""
    if instruction.opcode in ("dynamic-slice", "gather"):
        return {0: sum(shape.bytes for shape in instruction.shapes)}, None
    called = instruction.attribute("calls") if instruction.opcode == "fusion" else None
    inner = hlo.computations.get(called or "", [])
    by_name = {item.name: item for item in inner}
    users: dict[str, list[tuple[Instruction, int]]] = {}
    for item in inner:
        for place, name in enumerate(item.operands):
            users.setdefault(name, []).append((item, place))
    reads: dict[int, float] = {}
    writes: float | None = None
    for item in inner:
        if item.opcode == "parameter" and item.rest.isdigit() and (used := _users(item.name, users)):
            if all(user.opcode in ("dynamic-slice", "gather") and place == 0 for user, place in used):
                reads[int(item.rest)] = sum(
                    shape.bytes for user, _ in used for shape in user.shapes if not item.shapes[0].fast
                )
            elif all(user.opcode == "dynamic-update-slice" and place == 0 for user, place in used):
                reads[int(item.rest)] = 0.0
        if item.root:
            last = item
            while last.opcode in _VIEWS and last.operands and last.operands[0] in by_name:
                last = by_name[last.operands[0]]
            if last.opcode == "dynamic-update-slice" and len(last.operands) > 1 and last.operands[1] in by_name:
                fast = all(shape.fast for shape in instruction.shapes)
                writes = 0.0 if fast else sum(shape.bytes for shape in by_name[last.operands[1]].shapes)
    return reads, writes


def _users(name: str, users: dict[str, list[tuple[Instruction, int]]]) -> list[tuple[Instruction, int]]:
    """Return the users of a value as (instruction, operand index), looking through bitcasts and reshapes."""
    found: list[tuple[Instruction, int]] = []
    for user, place in users.get(name, []):
        found += _users(user.name, users) if user.opcode in _VIEWS else [(user, place)]
    return found


_VIEWS = frozenset(("bitcast", "reshape"))
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "iota", "after-all")
)


def _moved(instruction: Instruction, trips: int) -> float:
    total = 0.0
    for shape in instruction.shapes:
        if not shape.fast:
            stacked = trips > 1 and len(shape.sizes) > 1 and shape.sizes[0] == trips
            total += shape.bytes / trips if stacked else shape.bytes
    return total
