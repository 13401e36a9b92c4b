"""Communication between devices in a step, read from the compiled program."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from t2t.plan.hlo import HloModule, Instruction

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_MESH = re.compile(r"replica_groups=\w*\[(?P<axes>[^\]]*)\](?:, device_ids=\((?P<ids>[^{]*?)\))? \{(?P<used>[^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTS = re.compile(r"replica_groups=\{((?:\{[\d,\s]*\},?\s*)*)\}")
_MEGASCALE = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_OVERLAPPED = "async_collective_fusion"
"""The TPU compiler's name for a computation that overlaps with a collective that started earlier."""
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{[\d,\s]*\},?\s*)*)\}")


@dataclass(frozen=True, kw_only=True)
class Collective:
    """All collectives of one kind over the same mesh axes in one step.

    kind:    one of `KINDS`.
    axes:    mesh axes along which the devices of a group differ.
    group:   number of devices in a group.
    domains: number of slices or nodes that a group spans.
    spans:   for each torus dimension that a group spans, whether it is a closed ring.
    times:   number of collectives in a step.
    bytes:   size of the full arrays in a step: the result of an all-gather, the operand of a reduce-scatter, the array of an all-reduce.
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    domains: int
    spans: tuple[bool, ...]
    times: float
    bytes: float

    @property
    def sent(self) -> float:
        """Bytes that each device sends in a step with ring algorithms (Patarasuk & Yuan 2009).

        An all-reduce is a reduce-scatter followed by an all-gather. In a collective-permute, each device sends its whole array to one other device.
        """
        if self.kind == "collective-permute":
            return self.bytes
        return self.bytes * passes(self.kind) * (self.group - 1) / self.group if self.group else self.bytes


def passes(kind: str) -> float:
    """Return how many times a collective of this kind sends the array around the ring."""
    return 2.0 if kind == "all-reduce" else 1.0


@dataclass(frozen=True)
class Layout:
    """Physical location of a mesh's devices, in mesh order: torus coordinates (`places`) and slice or node number (`domains`)."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    places: np.ndarray
    domains: np.ndarray
    torus: tuple[int, ...]
    wraps: int

    @classmethod
    def of(cls, mesh: Mesh, *, torus: Sequence[int] = (), wraps: int = 1, domain: int | None = None) -> Layout:
        """Return the layout of a mesh.

        torus:  shape of a slice's torus; empty if a switch connects the devices.
        wraps:  see `Chip`.
        domain: number of devices in a slice or node.
        """
        devices = list(mesh.devices.flat)
        per = domain or len(devices)
        if any(getattr(device, "slice_index", None) for device in devices) and torus:
            domains = [device.slice_index for device in devices]
        else:
            order = {device.id: i for i, device in enumerate(sorted(devices, key=lambda device: device.id))}
            domains = [order[device.id] // per for device in devices]
        places = [tuple(getattr(device, "coords", ()) or ())[: len(torus)] for device in devices]
        if not torus or any(len(place) < len(torus) for place in places):
            places, torus = [()] * len(devices), ()
        sizes = tuple(mesh.shape.values())
        return cls(
            tuple(mesh.axis_names),
            sizes,
            np.array(places).reshape(len(devices), -1),
            np.array(domains),
            tuple(torus),
            wraps,
        )

    def across(self) -> np.ndarray:
        """Return mesh indices [groups, members]: each group has the devices at the same position in every domain."""
        count = len(set(self.domains.tolist()))
        order = np.argsort(self.domains, kind="stable")
        return order.reshape(count, -1).T

    def describe(self, groups: np.ndarray) -> tuple[tuple[str, ...], int, tuple[bool, ...]]:
        """Return the mesh axes that a group spans, its number of domains, and whether each torus dimension that it spans is a ring."""
        coordinates = np.array(np.unravel_index(groups, self.sizes))  # [axis, group, member]
        differ = (coordinates != coordinates[:, :, :1]).any(axis=(1, 2))
        axes = tuple(name for name, differs in zip(self.names, differ, strict=True) if differs)
        domains = max(len(set(self.domains[group].tolist())) for group in groups)
        spans: list[bool] = []
        for dimension, size in enumerate(self.torus):
            used = max(len(set(self.places[group, dimension].tolist())) for group in groups)
            if used > 1:
                spans.append(used == size and size % self.wraps == 0)
        return axes, domains, tuple(spans)


def collectives(program: HloModule, layout: Layout) -> list[Collective]:
    """Return the collectives of a step, largest first. A collective inside a loop counts once per iteration."""
    found: dict[tuple[str, tuple[str, ...], int, int, tuple[bool, ...]], list[float]] = defaultdict(lambda: [0.0, 0.0])
    described: dict[str, tuple[tuple[str, ...], int, tuple[bool, ...], int]] = {}
    started = {
        _key(instruction)
        for region in program.regions
        for computation, instruction in region.instructions
        if not computation.startswith(_OVERLAPPED)
    }
    for region in program.regions:
        seen: set[str] = set()
        for computation, instruction in region.instructions:
            kind = _kind(instruction, computation)
            if kind is None:
                continue
            # An asynchronous collective appears at its start, at its end, and in each fusion that overlaps with it. One channel is one collective.
            # It may overlap with a loop, so count it where it starts.
            key = _key(instruction)
            if key in seen or (computation.startswith(_OVERLAPPED) and key in started):
                continue
            seen.add(key)
            sending = instruction.opcode == "send"
            spelling = "between" if sending else _group_text(instruction)
            if spelling not in described:
                groups = layout.across() if sending else _groups(instruction, int(np.prod(layout.sizes)))
                described[spelling] = (*layout.describe(groups), groups.shape[1])
            axes, domains, spans, group = described[spelling]
            if group <= 1:
                continue
            entry = found[kind, axes, group, domains, spans]
            entry[0] += region.runs
            entry[1] += region.runs * _bytes(instruction, kind, group)
    result = [
        Collective(kind=kind, axes=axes, group=group, domains=domains, spans=spans, times=times, bytes=size)
        for (kind, axes, group, domains, spans), (times, size) in found.items()
    ]
    return sorted(result, key=lambda item: -item.sent)


def _key(instruction: Instruction) -> str:
    channel = _CHANNEL.search(instruction.rest)
    return f"channel {channel[1]}" if channel else instruction.name


def _kind(instruction: Instruction, computation: str) -> str | None:
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "all-reduce" and computation.startswith("all-reduce-scatter"):
        return "reduce-scatter"  # the TPU compiler fuses an all-reduce with the slice that a device keeps
    if opcode == "send" and (sent := _MEGASCALE.search(instruction.rest)):
        # Between slices, TPUs send through their hosts: each chip communicates with the chips at the same position in the other slices.
        named = sent[1].lower().replace("_", "-")
        return named if named in KINDS else "collective-permute"
    return opcode if opcode in KINDS else None


def _bytes(instruction: Instruction, kind: str, group: int) -> float:
    if instruction.opcode == "send":
        return instruction.shapes[0].bytes * (group if kind == "reduce-scatter" else 1)
    shapes = [shape for shape in instruction.shapes if shape.sizes or len(instruction.shapes) == 1]
    if instruction.opcode.endswith("-start") and kind != "all-reduce" and len(shapes) > 1:
        shapes = shapes[len(shapes) // 2 :]  # operands come first, then results
    total = sum(shape.bytes for shape in shapes)
    return total * group if instruction.opcode.startswith("reduce-scatter") else total


def _group_text(instruction: Instruction) -> str:
    for pattern in (_PAIRS, _MESH, _IOTA, _LISTS):
        found = pattern.search(instruction.rest)
        if found:
            return found[0]
    return ""


def _groups(instruction: Instruction, devices: int) -> np.ndarray:
    """Return mesh indices [groups, members]. Raise ValueError if the format is unknown."""
    rest = instruction.rest
    if pairs := _PAIRS.search(rest):
        return np.array(_lists(pairs[1]))
    if found := _MESH.search(rest):
        return _mesh_groups(found["axes"], found["ids"], found["used"], devices)
    if found := _IOTA.search(rest):
        shape, dims = _ints(found[1]), _ints(found[2])
        ids = np.arange(int(np.prod(dims))).reshape(dims)
        if found[3]:
            ids = ids.transpose(_ints(found[3]))
        return ids.reshape(shape)
    if found := _LISTS.search(rest):
        lists = _lists(found[1])
        return np.array(lists) if lists else np.arange(devices)[None]
    if "replica_groups" not in rest:
        return np.arange(devices)[None]
    raise ValueError(f"cannot read the replica groups of {instruction.name}: {rest[:200]}")


def _mesh_groups(axes: str, ids: str | None, used: str, devices: int) -> np.ndarray:
    """Parse `mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}`: a mesh and the axes that a group spans. 'b':(2)2 is a part of an axis."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    order = np.arange(devices)
    if ids:
        iota = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", ids.strip())
        if iota:
            order = order.reshape(_ints(iota[1]))
            order = order.transpose(_ints(iota[2])) if iota[2] else order
        else:
            order = np.array(_ints(ids))
    parts: list[tuple[int, bool]] = []
    wanted = {name: (before, size) for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used)}
    for name, size in sizes.items():
        if name not in wanted:
            parts.append((size, False))
        elif wanted[name][1]:
            before, inner = int(wanted[name][0]), int(wanted[name][1])
            parts += [(before, False), (inner, True), (size // before // inner, False)]
        else:
            parts.append((size, True))
    grid = order.reshape([size for size, _ in parts])
    inside = [i for i, (_, member) in enumerate(parts) if member]
    outside = [i for i, (_, member) in enumerate(parts) if not member]
    members = int(np.prod([parts[i][0] for i in inside])) if inside else 1
    return grid.transpose([*outside, *inside]).reshape(-1, members)


def _ints(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def _lists(text: str) -> list[list[int]]:
    return [_ints(part) for part in re.findall(r"\{([^}]*)\}", text)]
