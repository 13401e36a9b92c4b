"""The parts of a network that can have adapters: linear layers, kernels of experts, routers and heads, and token embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flax import nnx

from t2t.errors import UserError, nearest
from t2t.nn.adapters import Adaptable
from t2t.nn.embeddings import Embedding
from t2t.nn.linear import Linear
from t2t.nn.parameters import modules
from t2t.optim.paths import chosen, matching

if TYPE_CHECKING:
    from t2t.adapters.config import Adapter

WHAT = "linear layer, kernel of experts or embedding"


@dataclass(frozen=True)
class Matrix:
    """A parameter that is no kernel of a linear layer. Its adapter is in its module (`t2t.nn.adapters.Adapters`).

    name: of the parameter in the module.
    alone: whether no other parameter of the module can have an adapter.
    """

    module: Adaptable
    name: str
    alone: bool

    @property
    def parameter(self) -> nnx.Param:
        """The parameter."""
        found: nnx.Param = getattr(self.module, self.name)
        return found


def places(network: nnx.Module) -> dict[str, Linear | Matrix]:
    """Return what can have an adapter, by the path that patterns match."""
    found: dict[str, Linear | Matrix] = dict(modules(network, Linear))
    for path, module in modules(network, Adaptable).items():
        for end, name in module.adaptable().items():
            found[f"{path}/{end}" if end else path] = Matrix(module, name, alone=not end)
    return found


def targets_of(adapter: Adapter, network: nnx.Module) -> Mapping[str, Linear | Matrix]:
    """Return the targets by path. Raises UserError if a pattern matches nothing, or if none is left."""
    paths = places(network)
    tied = [path for path, table in modules(network, Embedding).items() if table.tied]
    for pattern in adapter.patterns:
        if (found := matching(pattern, tied)) and not matching(pattern, paths):
            raise UserError(
                f"adapter.targets {pattern!r} (--adapter.targets): {found[0]} cannot have an adapter, because the logits come from the same table (model.tied)."
                " Nearest: --model.tied False, before the model is trained."
            )
    targets = chosen(adapter.patterns, adapter.exclude, paths, where="adapter", name="targets", what=WHAT)
    if not targets:
        raise UserError(
            f"adapter.targets {', '.join(map(repr, adapter.patterns))} without adapter.exclude {', '.join(map(repr, adapter.exclude))} leaves no {WHAT}"
            f" (--adapter.targets, --adapter.exclude).{nearest(adapter.patterns[0], paths)}"
        )
    return {path: paths[path] for path in sorted(targets)}
