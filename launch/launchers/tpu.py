"""TPU slices: chips and hosts of a topology, and the clouds' names for them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from t2t.errors import UserError, nearest

GKE = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
"""Generation -> value of the node label cloud.google.com/gke-tpu-accelerator
(https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus)."""

RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""Generation -> software version of TPU VMs for JAX (https://cloud.google.com/tpu/docs/runtimes)."""

TYPES = {"v4": "v4", "v5litepod": "v5e", "v5p": "v5p", "v6e": "v6e"}
"""Prefix of a TPU VM's accelerator type -> generation. The number after the dash counts cores for v4 and v5p (two per chip), and chips for the others."""

CHIPS_PER_HOST = 4


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A TPU slice. topology: "4x4", chips along each axis of the torus."""

    generation: str
    topology: str

    @classmethod
    def parse(cls, text: str, option: str) -> Slice:
        """Parse "v5e:4x4". Raises UserError for an unknown generation or an invalid topology."""
        generation, _, topology = text.partition(":")
        if generation not in GKE:
            raise UserError(f"{option} {text!r}: unknown TPU {generation!r}.{nearest(generation, GKE)}")
        axes = 3 if generation in ("v4", "v5p") else 2
        if not re.fullmatch("x".join([r"[1-9]\d*"] * axes), topology):
            raise UserError(
                f"{option} {text!r}: a {generation} has a topology of {axes} axes. Nearest: {generation}:{'x'.join(['2', '2', '1'][:axes])}."
            )
        found = cls(generation=generation, topology=topology)
        if found.chips > CHIPS_PER_HOST and found.chips % CHIPS_PER_HOST:
            raise UserError(
                f"{option} {text!r}: {found.chips} chips do not divide over hosts of {CHIPS_PER_HOST}. Nearest: {generation}:{'x'.join(['2'] * axes)}."
            )
        return found

    @property
    def chips(self) -> int:
        """Number of chips."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def hosts(self) -> int:
        """Number of hosts with up to four chips each. A machine with eight chips counts as two, unless --hosts is given."""
        return max(1, self.chips // CHIPS_PER_HOST)
