"""The parts of a network that can have adapters: linear layers, and kernels of experts and of routers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flax import nnx

from t2t.errors import UserError, nearest
from t2t.nn.linear import Linear
from t2t.nn.moe.layer import MoE
from t2t.nn.parameters import modules
from t2t.optim.paths import chosen

if TYPE_CHECKING:
    from t2t.adapters.config import Adapter

WHAT = "linear layer or kernel of experts"


@dataclass(frozen=True)
class Matrix:
    """A parameter that is no kernel of a linear layer. Its adapter is in its module (`t2t.nn.adapters.Adapters`).

    name: of the parameter in the module.
    """

    module: MoE
    name: str

    @property
    def parameter(self) -> nnx.Param:
        """The parameter."""
        found: nnx.Param = getattr(self.module, self.name)
        return found


def places(network: nnx.Module) -> dict[str, Linear | Matrix]:
    """Return what can have an adapter, by the path that patterns match."""
    found: dict[str, Linear | Matrix] = dict(modules(network, Linear))
    for path, experts in modules(network, MoE).items():
        for name in ("router", "up", "gate", "down"):
            if getattr(experts, name) is not None:
                found[f"{path}/{name}"] = Matrix(experts, name)
    return found


def targets_of(adapter: Adapter, paths: Collection[str]) -> frozenset[str]:
    """Return the paths of the targets, of those of `places`. Raises UserError if a pattern matches nothing, or if none is left."""
    targets = chosen(adapter.patterns, adapter.exclude, paths, where="adapter", name="targets", what=WHAT)
    if not targets:
        raise UserError(
            f"adapter.targets {', '.join(map(repr, adapter.patterns))} without adapter.exclude {', '.join(map(repr, adapter.exclude))} leaves no {WHAT}"
            f" (--adapter.targets, --adapter.exclude).{nearest(adapter.patterns[0], paths)}"
        )
    return targets
