"""Lower bound of the step time from compute, memory and communication (roofline model, Williams et al. 2009)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2t.plan.chips import Chip
from t2t.plan.collectives import Collective, passes

MATMUL, MEMORY, LINKS = 0.75, 0.8, 0.8
"""Assumed fraction of the published peak rates for large matrix products, memory streams and large messages. Not measured."""


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Busy time of each part of a chip in one step, in seconds.

    compute: matrix units.
    memory:  main memory.
    inside:  links within a slice or node.
    between: network between slices or nodes.
    """

    compute: float
    memory: float
    inside: float
    between: float

    @property
    def binds(self) -> str:
        """Name of the part that is busy the longest."""
        parts = {name: getattr(self, name) for name in ("compute", "memory", "inside", "between")}
        return max(parts, key=lambda name: parts[name])

    @property
    def fastest(self) -> float:
        """Step time in seconds if all communication overlaps with computation."""
        return max(self.compute, self.memory, self.inside, self.between)

    @property
    def slowest(self) -> float:
        """Step time in seconds if no communication overlaps with computation."""
        return max(self.compute, self.memory) + self.inside + self.between


def roofline(
    chip: Chip, devices: int, flops: Mapping[str, float], moved: float, sent: Sequence[Collective]
) -> Roofline:
    """Return the busy times of a step.

    flops: FLOPs over all devices, by operand dtype.
    moved: bytes to and from the memory of one device.
    sent:  collectives of one device.
    """
    rates = {"float32": chip.flops_float32, "int8": chip.ops_int8, "float8": chip.flops_float8}
    compute = sum(count / devices / rates.get(dtype, chip.flops) for dtype, count in flops.items()) / MATMUL
    inside = between = 0.0
    for collective in sent:
        near, far = seconds(chip, collective)
        inside, between = inside + near, between + far
    return Roofline(compute=compute, memory=moved / chip.bandwidth / MEMORY, inside=inside, between=between)


def seconds(chip: Chip, collective: Collective) -> tuple[float, float]:
    """Return the seconds of a collective on the links inside a domain and on the network between domains, without latencies.

    A collective over several domains has two parts: first within each domain, then between the chips at the same position of all domains.
    """
    members = collective.group / collective.domains
    # A ring uses both directions at once, a line only one. All torus dimensions that a group spans work at the same time.
    links = sum(2 if ring else 1 for ring in collective.spans) or 1
    inside, between = chip.link * links * LINKS, chip.between * LINKS
    if collective.kind == "collective-permute":
        return (0.0, collective.bytes / between) if collective.domains > 1 else (collective.bytes / inside, 0.0)
    size = collective.bytes * passes(collective.kind)
    near = size * (members - 1) / members / inside
    far = size / members * (collective.domains - 1) / collective.domains / between
    return near, far
