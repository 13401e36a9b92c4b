"""Hardware topologies by name, and their devices for ahead-of-time compilation."""

from __future__ import annotations

import importlib.util
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
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
"""Environment variables that must be set before JAX starts. Without them, the TPU compiler asks the network which machine it runs on. JAX's
compilation cache is off: it does not support programs for devices that this machine does not have."""

_SHAPES = {
    "v5e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v6e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"},
    "v5p": {
        **{4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8"},
        **{1024: "8x8x16", 2048: "8x16x16", 4096: "16x16x16", 6144: "16x16x24"},
    },
}
_LARGEST_V5P = 6144
"""Chips of the largest v5p slice. All slices from 4x4x4 on have sizes that are multiples of 4 (cloud.google.com/tpu/docs/v5p)."""
_PATTERN = re.compile(r"(?P<kind>[a-z0-9]+)(?::(?P<shape>\d+(x\d+)*)|-(?P<count>\d+))(\*(?P<slices>\d+))?")
EXAMPLES = "v5e:16x16, v5p:8x8x8, v6e:16x16, v5e:16x16*2, v5e-256, h100:32x8"


@dataclass(frozen=True, kw_only=True)
class Topology(Configuration):
    """Chips of one kind and how they are connected.

    kind:   a key of `CHIPS`.
    shape:  TPUs: shape of a slice's torus, in chips. GPUs: (nodes, GPUs per node).
    slices: number of slices of that shape, connected by the data-center network. Always 1 for GPUs, because `shape` contains the nodes.
    """

    kind: str
    shape: tuple[Parts, ...]
    slices: Parts = 1

    @classmethod
    def parse(cls, text: str, slices: int | None = None) -> Topology:
        """Return the topology with a name such as "v5e:16x16", "v5e:16x16*2", "v5e-256", "v5p-1024" or "h100:32x8".

        "v5e-256" has 256 chips. For v5p, the number counts cores, as in Google's names: "v5p-1024" has 512 chips.

        slices: number of slices if the text does not contain it (--slices).

        Raises UserError if the name is invalid.
        """
        found = _PATTERN.fullmatch(text.strip().lower())
        kind = found["kind"] if found else re.split(r"[:\-*]", text.lower())[0]
        if kind not in CHIPS:
            raise UserError(f"topology {text!r} (--topology): unknown chip {kind!r}.{nearest(kind, CHIPS)}")
        if found is None:
            raise UserError(f"topology {text!r} (--topology) is invalid. Examples: {EXAMPLES}.")
        in_text = int(found["slices"]) if found["slices"] else None
        if in_text is not None and slices is not None and in_text != slices:
            raise UserError(f"topology {text!r} (--topology) has {in_text} slices, but --slices is {slices}")
        count = in_text or slices or 1
        if kind == "h100" and count != 1:
            raise UserError(
                f"topology {text!r} (--topology): GPUs have no slices; set the number of nodes: h100:{2 * count}x8"
            )
        shape = found["shape"] or _shape_of(kind, int(found["count"]), text)
        sizes = tuple(int(size) for size in shape.split("x"))
        dimensions = 3 if kind == "v5p" else 2
        if len(sizes) != dimensions or min(sizes) < 1 or count < 1:
            example = {"v5p": "v5p:4x4x4", "h100": "h100:2x8 (nodes x GPUs)"}.get(kind, f"{kind}:4x4")
            raise UserError(
                f"topology {text!r} (--topology): {kind} needs {dimensions} sizes, each at least 1. Nearest: {example}."
            )
        if kind == "h100" and sizes[1] > 8:
            raise UserError(f"topology {text!r} (--topology): a node has at most 8 GPUs. Nearest: h100:{sizes[0]}x8.")
        return cls(kind=kind, shape=sizes, slices=count)

    @property
    def chip(self) -> Chip:
        """Specification of its chips."""
        return CHIPS[self.kind]

    @property
    def size(self) -> int:
        """Total number of chips."""
        return self.slices * math.prod(self.shape)

    @property
    def domain(self) -> int:
        """Number of chips in a slice or node, which have fast links."""
        return self.shape[-1] if self.kind == "h100" else math.prod(self.shape)

    @property
    def is_tpu(self) -> bool:
        """Whether its chips are TPUs."""
        return self.kind != "h100"

    def __str__(self) -> str:
        name = f"{self.kind}:{'x'.join(map(str, self.shape))}"
        return f"{name}*{self.slices}" if self.slices > 1 else name

    def check(self) -> None:
        """Raise UserError if no slice has this shape. Needed if there is no compiler to check it."""
        known = {tuple(map(int, shape.split("x"))) for shape in _SHAPES.get(self.kind, {}).values()}
        small = tuple(sorted(self.shape))
        whole = (
            self.kind == "v5p" and not any(size % 4 for size in self.shape) and math.prod(self.shape) <= _LARGEST_V5P
        )
        if not known or whole or small in {tuple(sorted(shape)) for shape in known}:
            return
        raise UserError(f"topology {self} (--topology): there is no slice of that shape.{self._nearest()}")

    def _nearest(self) -> str:
        """Return the end of an error message with the slice of the nearest size; "" for GPUs."""
        shapes = [tuple(map(int, shape.split("x"))) for shape in _SHAPES.get(self.kind, {}).values()]
        if not shapes:
            return ""
        chips = math.prod(self.shape)
        near = min(shapes, key=lambda shape: (abs(math.prod(shape) - chips), shape))
        return f" Nearest: {self.kind}:{'x'.join(map(str, near))}."

    def devices(self) -> list[Any]:
        """Return the devices of the topology. Programs can be compiled for them, but cannot run.

        Raises UserError if the compiler is not installed or does not support the topology.
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
                    platform="tpu", topology_name=f"{self.kind}:{shape}", **_host_bounds(self.shape), **more
                )
            else:
                nodes = f"1 x {self.shape[0]} x {self.shape[1]}"
                found = topologies.get_topology_desc("", "cuda", target_config=H100_TARGET, topology=nodes)
        except Exception as error:  # compilers raise many types of errors
            text = " ".join(str(error).split())[:300]
            raise UserError(
                f"topology {self} (--topology): the compiler does not support it ({text}).{self._nearest()}"
            ) from error
        return list(found.devices)


def missing(kind: str) -> str | None:
    """Return what to install to compile for this kind of chip, or None if the compiler is installed."""
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


def _host_bounds(shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the option for slices with fewer than four chips, the default number per host."""
    if math.prod(shape) >= 4:
        return {}
    return {"chips_per_host_bounds": (*shape, *(1,) * (3 - len(shape)))}
