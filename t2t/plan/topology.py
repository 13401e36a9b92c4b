"""Machines by name, and their devices, to compile for without having them."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Parts
from t2t.plan.chips import CHIPS, H100_TARGET, Chip

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "false",
}
"""What must be in the environment before JAX starts: without it the TPU compiler asks the network what machine it is on. JAX's cache of
compiled programs does not serve programs for devices that are not there."""

_SHAPES = {
    "v5e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v6e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v5p": {
        **{4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"},
        **{1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16", 6144: "16x16x24"},
    },
}
_LARGEST_V5P = 6144
"""Chips of the largest slice, whose sizes are multiples of 4 as those of all from 4x4x4 on (cloud.google.com/tpu/docs/v5p)."""
_PATTERN = re.compile(r"(?P<kind>[a-z0-9]+)(?::(?P<shape>\d+(x\d+)*)|-(?P<count>\d+))(\*(?P<slices>\d+))?")
EXAMPLES = "v5e:16x16, v5p:8x8x8, v6e:16x16, v5e:16x16*2, v5e-256, h100:32x8"


@dataclass(frozen=True, kw_only=True)
class Topology(Configuration):
    """Chips of one kind and how they are joined.

    kind:   a key of `CHIPS`.
    shape:  of a slice's torus, in chips; of GPUs (nodes, GPUs a node).
    slices: of that shape each, with the data-centre network between them; 1 for GPUs, whose nodes are in the shape.
    """

    kind: str
    shape: tuple[Parts, ...]
    slices: Parts = 1

    @classmethod
    def parse(cls, text: str, slices: int | None = None) -> Topology:
        """Return the topology that "v5e:16x16", "v5e:16x16*2", "v5e-256", "v5p-1024" or "h100:32x8" names.

        "v5e-256" is 256 chips; v5p's number, as Google has it, is of cores: "v5p-1024" is 512 chips.
        slices: how many, where the text does not tell (--slices).

        Raises UserError.
        """
        found = _PATTERN.fullmatch(text.strip().lower())
        kind = found["kind"] if found else re.split(r"[:\-*]", text.lower())[0]
        if kind not in CHIPS:
            raise UserError(f"topology {text!r} (--topology): unknown chip {kind!r}.{nearest(kind, CHIPS)}")
        if found is None:
            raise UserError(f"topology {text!r} (--topology) is not understood. Examples: {EXAMPLES}.")
        told = int(found["slices"]) if found["slices"] else None
        if told is not None and slices is not None and told != slices:
            raise UserError(f"topology {text!r} (--topology) has {told} slices, and --slices says {slices}")
        count = told or slices or 1
        if kind == "h100" and (told or slices or 1) != 1:
            raise UserError(f"topology {text!r} (--topology): GPUs have no slices; name the nodes: h100:{2 * count}x8")
        shape = found["shape"] or _shape_of(kind, int(found["count"]), text)
        sizes = tuple(int(size) for size in shape.split("x"))
        dimensions = {"v5p": 3, "h100": 2}.get(kind, 2)
        if len(sizes) != dimensions or min(sizes) < 1 or count < 1:
            example = {"v5p": "v5p:4x4x4", "h100": "h100:2x8 (nodes x GPUs)"}.get(kind, f"{kind}:4x4")
            raise UserError(f"topology {text!r} (--topology): a {kind} has {dimensions} sizes. Nearest: {example}.")
        if kind == "h100" and sizes[1] > 8:
            raise UserError(f"topology {text!r} (--topology): a node has at most 8 GPUs. Nearest: h100:{sizes[0]}x8.")
        return cls(kind=kind, shape=sizes, slices=count)

    @property
    def chip(self) -> Chip:
        """What it is made of."""
        return CHIPS[self.kind]

    @property
    def size(self) -> int:
        """Chips in all."""
        return self.slices * math.prod(self.shape)

    @property
    def domain(self) -> int:
        """Chips with fast links among themselves."""
        return self.shape[-1] if self.kind == "h100" else math.prod(self.shape)

    @property
    def is_tpu(self) -> bool:
        """Whether it is of TPUs."""
        return self.kind != "h100"

    def __str__(self) -> str:
        name = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return f"{name}*{self.slices}" if self.slices > 1 else name

    def smaller(self, shape: tuple[int, ...]) -> Topology:
        """Return the same of another shape."""
        return replace(self, shape=shape)

    def check(self) -> None:
        """Raise UserError, with the nearest, unless there are slices of that shape: without a compiler nothing else tells."""
        known = {tuple(map(int, shape.split("x"))) for shape in _SHAPES.get(self.kind, {}).values()}
        small = tuple(sorted(self.shape))
        whole = (
            self.kind == "v5p" and not any(size % 4 for size in self.shape) and math.prod(self.shape) <= _LARGEST_V5P
        )
        if not known or whole or small in {tuple(sorted(shape)) for shape in known}:
            return
        chips = math.prod(self.shape)
        near = min(known, key=lambda shape: (abs(math.prod(shape) - chips), shape))
        raise UserError(
            f"topology {self} (--topology): there is no slice of that shape. Nearest: {self.kind}:{'x'.join(map(str, near))}."
        )

    def devices(self) -> list[Any]:
        """Return the devices, for which can be compiled and on which nothing can run.

        Raises UserError where the compiler is not installed or knows no such topology.
        """
        why = missing(self.kind)
        if why is not None:
            raise UserError(f"topology {self} (--topology): {why}")
        os.environ.update({name: value for name, value in ENVIRONMENT.items() if name.startswith(("TPU_", "ALLOW_"))})
        from jax.experimental import topologies

        shape = "x".join(map(str, self.shape))
        try:
            if self.is_tpu:
                more: Mapping[str, Any] = {"num_slices": self.slices} if self.slices > 1 else {}
                found = topologies.get_topology_desc(
                    platform="tpu", topology_name=f"{self.kind}:{shape}", **_whole(self.shape), **more
                )
            else:
                nodes = f"1 x {self.shape[0]} x {self.shape[1]}"
                found = topologies.get_topology_desc("", "cuda", target_config=H100_TARGET, topology=nodes)
        except Exception as error:  # the compilers raise what they like
            text = " ".join(str(error).split())[:300]
            known = sorted(_SHAPES.get(self.kind, {}).values(), key=lambda name: math.prod(map(int, name.split("x"))))
            near = min(
                known, key=lambda name: abs(math.prod(map(int, name.split("x"))) - math.prod(self.shape)), default=""
            )
            raise UserError(
                f"topology {self} (--topology): the compiler refuses it ({text})."
                + (f" Nearest: {self.kind}:{near}." if near else "")
            ) from error
        return list(found.devices)


def missing(kind: str) -> str | None:
    """Return what to install to compile for that kind of chip, or None where it is there."""
    import jax

    if kind == "h100":
        names = [f"jax_cuda{cuda}_plugin" for cuda in (13, 12)]
        if any(importlib.util.find_spec(name) for name in names):
            return None
        version = jax.__version__
        return f"the GPU compiler is not installed: pip install jax-cuda13-plugin=={version} jax-cuda13-pjrt=={version}"
    if importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH"):
        return None
    return f"the TPU compiler is not installed: pip install 'jax[tpu]=={jax.__version__}'"


def _shape_of(kind: str, count: int, text: str) -> str:
    if kind == "h100":
        return f"{max(count // 8, 1)}x{min(count, 8)}"
    per = 2 if kind == "v5p" else 1
    known = {chips * per: shape for chips, shape in _SHAPES[kind].items()}
    if count not in known:
        near = min(known, key=lambda size: abs(size - count))
        raise UserError(f"topology {text!r} (--topology): there is no {kind}-{count}. Nearest: {kind}-{near}.")
    return known[count]


def _whole(shape: tuple[int, ...]) -> dict[str, Any]:
    """A host has four chips; slices smaller than that need telling."""
    if math.prod(shape) >= 4:
        return {}
    return {"chips_per_host_bounds": (*shape, *(1,) * (3 - len(shape)))}
