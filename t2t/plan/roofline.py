"""How long a step takes at the least: computing, memory, links (Williams et al. 2009, the roofline model)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2t.plan.chips import Chip
from t2t.plan.collectives import Collective, passes

MATMUL, MEMORY, LINKS = 0.75, 0.8, 0.8
"""Shares of the published peaks that are taken to be reached: large matrix products, streams through memory, large messages. Not measured here."""


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds of one step that each of a chip's parts is busy.

    compute: matrix units, on the operations as computed.
    memory:  main memory.
    inside:  links within a slice or node.
    between: the network between slices or nodes.
    """

    compute: float
    memory: float
    inside: float
    between: float

    @property
    def binds(self) -> str:
        """Name of the part that is busy longest."""
        parts = {name: getattr(self, name) for name in ("compute", "memory", "inside", "between")}
        return max(parts, key=lambda name: parts[name])

    @property
    def fastest(self) -> float:
        """Seconds where all that is sent hides behind computing."""
        return max(self.compute, self.memory, self.inside, self.between)

    @property
    def slowest(self) -> float:
        """Seconds where nothing that is sent does."""
        return max(self.compute, self.memory) + self.inside + self.between


def roofline(
    chip: Chip, devices: int, flops: Mapping[str, float], moved: float, sent: Sequence[Collective]
) -> Roofline:
    """Return the seconds of a step.

    flops: operand type -> operations over all devices.
    moved: bytes to and from a device's memory.
    sent:  what a device sends.
    """
    rates = {"float32": chip.flops_float32, "int8": chip.ops_int8, "float8": chip.flops_float8}
    compute = sum(count / devices / rates.get(dtype, chip.flops) for dtype, count in flops.items()) / MATMUL
    inside = between = 0.0
    for collective in sent:
        near, far = seconds(chip, collective)
        inside, between = inside + near, between + far
    return Roofline(compute=compute, memory=moved / chip.bandwidth / MEMORY, inside=inside, between=between)


def seconds(chip: Chip, collective: Collective) -> tuple[float, float]:
    """Return the seconds a collective takes on the links inside a domain and on the network between domains; latencies are not counted.

    Over several domains it goes in two parts: within each, and then each chip with its like in the others.
    """
    members = collective.group / collective.domains
    # A ring's two directions are used at once, and each dimension of the torus that a group spans; a line passes one way at its ends.
    links = sum(2 if ring else 1 for ring in collective.spans) or 1
    inside, between = chip.link * links * LINKS, chip.between * LINKS
    if collective.kind == "collective-permute":
        return (0.0, collective.bytes / between) if collective.domains > 1 else (collective.bytes / inside, 0.0)
    size = collective.bytes * passes(collective.kind)
    near = size * (members - 1) / members / inside
    far = size / members * (collective.domains - 1) / collective.domains / between
    return near, far
