"""Search for a mesh, rematerialization policy and number of microbatches that fit, and for changes that make a plan fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from t2t.errors import UserError
from t2t.plan.plan import Plan, estimate_plan, prepare
from t2t.plan.topology import Topology
from t2t.train.experiment import Experiment

REMAT = ("none", "dots", "dots_no_batch", "full")


def search(experiment: Experiment, topology: Topology, devices: list[Any] | None = None) -> list[Plan]:
    """Return all estimated plans that fit, fastest first, over meshes (powers of two), remat policies and microbatches.

    For each mesh and policy, only the plan with the fewest microbatches is returned: more microbatches are slower.
    """
    found: list[Plan] = []
    traced: dict[int, bool] = {}
    for mesh in _meshes(experiment, topology):
        if mesh.tensor not in traced:
            changed = dataclasses.replace(experiment, mesh=mesh)
            traced[mesh.tensor] = traces(changed, topology, devices)
        if not traced[mesh.tensor]:
            continue
        for remat in _remats(experiment):
            for parts in _microbatches(experiment, mesh):
                changed = dataclasses.replace(_with(experiment, mesh=mesh, remat=remat), microbatches=parts)
                tried = _try(changed, topology, devices)
                if tried is None:
                    break
                if tried.fits:
                    found.append(tried)
                    break
    return sorted(found, key=lambda it: (it.roofline.slowest, it.memory.total))


def suggest_fixes(
    experiment: Experiment, topology: Topology, devices: list[Any] | None = None, *, at_most: int = 4
) -> list[tuple[str, Plan]]:
    """Return changes that make an experiment fit by estimate, as (command line options, plan), smallest change first."""
    found: list[tuple[str, Plan]] = []
    for options, changed in _changes(experiment, topology, devices):
        for parts in _microbatches(experiment, changed.mesh):
            changes = [*options, f"--microbatches {parts}"] if parts != experiment.microbatches else options
            tried = _try(dataclasses.replace(changed, microbatches=parts), topology, devices)
            if tried is None:
                break
            if changes and tried.fits:
                found.append((" ".join(changes), tried))
                break
        if len(found) == at_most:
            break
    return found


def traces(experiment: Experiment, topology: Topology, devices: list[Any] | None = None) -> bool:
    """Return whether the step can be traced on its mesh. Activations (heads) may not divide even if the parameters do."""
    try:
        program = prepare(dataclasses.replace(experiment, microbatches=1), topology, devices)
        jax.eval_shape(program.step(), program.abstract_state(), program.abstract_batch())
    except UserError:
        return False
    return True


def _changes(
    experiment: Experiment, topology: Topology, devices: list[Any] | None = None
) -> Iterator[tuple[list[str], Experiment]]:
    """Yield (command line options, changed experiment), from small to large changes."""
    sizes = experiment.mesh.sizes(topology.size)
    old = (sizes["data"], sizes["fsdp"], sizes["tensor"])
    each = topology.size // sizes["context"] // sizes["expert"] // topology.slices
    divided = [(topology.slices, each // tensor, tensor) for tensor in (1, 2, 4, 8, 16) if tensor >= old[2]]
    remat, lighter = experiment.model.execution.get("remat"), experiment.model.lighter
    for sized in dict.fromkeys((old, *divided)):
        mesh = dataclasses.replace(experiment.mesh, data=sized[0], fsdp=sized[1], tensor=sized[2])
        if sized != old and not traces(dataclasses.replace(experiment, mesh=mesh), topology, devices):
            continue
        for fields in [{}, lighter] if lighter else [{}]:
            for policy in dict.fromkeys((remat, "full" if remat else None)):
                changed = _with(experiment, mesh=mesh, remat=policy, **fields)
                options = _mesh_options(old, sized)
                options += [f"--model.remat {policy}"] if policy != remat else []
                options += [f"--model.{name.replace('_', '-')} {value}" for name, value in fields.items()]
                yield options, changed


def _mesh_options(old: tuple[int, int, int], new: tuple[int, int, int]) -> list[str]:
    if old == new:
        return []
    return [f"--mesh.{name} {size}" for name, size in zip(("data", "fsdp", "tensor"), new, strict=True)]


def _try(experiment: Experiment, topology: Topology, devices: list[Any] | None = None) -> Plan | None:
    try:
        return estimate_plan(prepare(experiment, topology, devices), topology)
    except UserError:  # a size does not divide
        return None


def _with(experiment: Experiment, *, mesh: Any, remat: str | None, **fields: Any) -> Experiment:
    changes = fields if remat is None else {**fields, "remat": remat}
    return dataclasses.replace(experiment, mesh=mesh, model=dataclasses.replace(experiment.model, **changes))


def _remats(experiment: Experiment) -> Iterable[str | None]:
    return REMAT if "remat" in experiment.model.execution else (None,)


def _meshes(experiment: Experiment, topology: Topology) -> Iterator[Any]:
    sizes = experiment.mesh.sizes(topology.size)
    context, expert = sizes["context"], sizes["expert"]
    rest = topology.size // context // expert
    for tensor in _powers(min(rest, 16 if topology.is_tpu else 8)):
        for data in _powers(rest // tensor):
            ways = rest // tensor
            if rest % tensor == 0 and ways % data == 0 and data % topology.slices == 0:
                axes = {"data": data, "fsdp": ways // data, "tensor": tensor, "context": context, "expert": expert}
                yield dataclasses.replace(experiment.mesh, **axes, between="data")


def _microbatches(experiment: Experiment, mesh: Any) -> Iterator[int]:
    ways = max(mesh.data, 1) * max(mesh.fsdp, 1) * max(mesh.expert, 1)
    rows = experiment.data.batch_size // ways
    rows = 1 if experiment.objective.whole_batch else rows
    yield from (parts for parts in _powers(rows) if rows % parts == 0 and parts >= experiment.microbatches)


def _powers(limit: int) -> Iterator[int]:
    size = 1
    while size <= limit:
        yield size
        size *= 2


def describe(experiment: Experiment, mesh: dict[str, int]) -> str:
    """Return the command line options for a plan's mesh, remat policy and microbatches."""
    options = [
        f"--mesh.{name} {mesh[name]}" for name in ("data", "fsdp", "expert", "context", "tensor") if mesh[name] > 1
    ]
    if "data" in mesh and mesh["data"] == 1:
        options.insert(0, "--mesh.data 1")
    if "remat" in experiment.model.execution:
        options.append(f"--model.remat {experiment.model.execution.get('remat')}")
    return " ".join([*options, f"--microbatches {experiment.microbatches}"])
