"""Which mesh, rematerialisation and microbatches: all that fit, ranked as foreseen; and what would make a plan fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from t2t.errors import UserError
from t2t.plan.plan import Plan, foresee, prepare
from t2t.plan.topology import Topology
from t2t.train.experiment import Experiment

REMAT = ("none", "dots", "dots_no_batch", "full")


def search(experiment: Experiment, topology: Topology, devices: list[Any]) -> list[Plan]:
    """Return plans as foreseen that fit, the fastest first: over meshes (powers of two), remat policies and microbatches.

    Of plans that differ in microbatches alone the one with the fewest is kept: more only take longer.
    """
    found: list[Plan] = []
    for mesh in _meshes(experiment, topology):
        for remat in _remats(experiment):
            for parts in _microbatches(experiment, mesh):
                tried = _try(_with(experiment, mesh=mesh, remat=remat, microbatches=parts), topology, devices)
                if tried is None:
                    break
                if tried.fits:
                    found.append(tried)
                    break
    return sorted(found, key=lambda it: (it.roofline.slowest, it.memory.total))


def remedies(
    experiment: Experiment, topology: Topology, devices: list[Any], *, at_most: int = 4
) -> list[tuple[str, Plan]]:
    """Return changes that would make an experiment fit, as foreseen, each as options of the command line; the smallest changes first."""
    found: list[tuple[str, Plan]] = []
    for options, changed in _changes(experiment, topology):
        tried = _try(changed, topology, devices)
        if tried is not None and tried.fits:
            found.append((options, tried))
            if len(found) == at_most:
                break
    return found


def _changes(experiment: Experiment, topology: Topology) -> Iterator[tuple[str, Experiment]]:
    """Yield changes, from those that change nothing of the result and little of the speed to those that change much."""
    sizes = experiment.mesh.sizes(topology.size)
    chunked = _chunked(experiment)
    own = (sizes["data"], sizes["fsdp"], sizes["tensor"])
    meshes = [own]
    ways = sizes["data"] * sizes["fsdp"]
    if sizes["data"] > 1 and ways // topology.slices > 1:
        meshes.append((topology.slices, ways // topology.slices, sizes["tensor"]))
    meshes += [
        (topology.slices, topology.size // topology.slices // tensor // sizes["context"], tensor)
        for tensor in (2, 4, 8, 16)
        if tensor > sizes["tensor"]
    ]
    remat = getattr(experiment.model, "remat", None)
    for data, fsdp, tensor in meshes:
        for attention in (None, chunked) if chunked else (None,):
            for policy in dict.fromkeys((remat, "full")):
                mesh = dataclasses.replace(experiment.mesh, data=data, fsdp=fsdp, tensor=tensor)
                for parts in _microbatches(experiment, mesh):
                    if parts > 64 * experiment.microbatches:
                        break
                    changed = _with(experiment, mesh=mesh, remat=policy, microbatches=parts)
                    options = _mesh_options(own, (data, fsdp, tensor))
                    if policy != remat:
                        options.append(f"--model.remat {policy}")
                    if attention is not None:
                        changed = dataclasses.replace(
                            changed, model=dataclasses.replace(changed.model, attention=attention)
                        )
                        options.append(f"--model.attention {attention}")
                    if parts != experiment.microbatches:
                        options.append(f"--microbatches {parts}")
                    if options:
                        yield " ".join(options), changed


def _mesh_options(old: tuple[int, int, int], new: tuple[int, int, int]) -> list[str]:
    if old == new:
        return []
    return [f"--mesh.{name} {size}" for name, size in zip(("data", "fsdp", "tensor"), new, strict=True)]


def _try(experiment: Experiment, topology: Topology, devices: list[Any]) -> Plan | None:
    try:
        return foresee(prepare(experiment, topology, devices), topology)
    except UserError:  # something does not divide
        return None


def _with(experiment: Experiment, *, mesh: Any, remat: str | None, microbatches: int) -> Experiment:
    model = experiment.model if remat is None else dataclasses.replace(experiment.model, remat=remat)  # type: ignore[call-arg]
    return dataclasses.replace(experiment, mesh=mesh, model=model, microbatches=microbatches)


def _remats(experiment: Experiment) -> Iterable[str | None]:
    return REMAT if hasattr(experiment.model, "remat") else (None,)


def _chunked(experiment: Experiment) -> str | None:
    return "chunked" if getattr(experiment.model, "attention", None) == "einsum" else None


def _meshes(experiment: Experiment, topology: Topology) -> Iterator[Any]:
    context = experiment.mesh.sizes(topology.size)["context"]
    rest = topology.size // context
    for tensor in _powers(min(rest, 16 if topology.is_tpu else 8)):
        for data in _powers(rest // tensor):
            ways = rest // tensor
            if rest % tensor == 0 and ways % data == 0 and data % topology.slices == 0:
                yield dataclasses.replace(
                    experiment.mesh, data=data, fsdp=ways // data, tensor=tensor, context=context, between="data"
                )


def _microbatches(experiment: Experiment, mesh: Any) -> Iterator[int]:
    ways = max(mesh.data, 1) * max(mesh.fsdp, 1)
    rows = experiment.data.batch_size // ways
    yield from (parts for parts in _powers(rows) if rows % parts == 0 and parts >= experiment.microbatches)


def _powers(limit: int) -> Iterator[int]:
    size = 1
    while size <= limit:
        yield size
        size *= 2


def describe(experiment: Experiment, mesh: dict[str, int]) -> str:
    """Return the options of the command line that choose a plan's mesh, remat policy and microbatches."""
    options = [f"--mesh.{name} {mesh[name]}" for name in ("data", "fsdp", "context", "tensor") if mesh[name] > 1]
    if "data" in mesh and mesh["data"] == 1:
        options.insert(0, "--mesh.data 1")
    if hasattr(experiment.model, "remat"):
        options.append(f"--model.remat {experiment.model.remat}")
    return " ".join([*options, f"--microbatches {experiment.microbatches}"])
