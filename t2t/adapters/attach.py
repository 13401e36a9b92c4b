"""Attach adapters to the linear layers of a network."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from flax import nnx

from t2t.errors import UserError, nearest
from t2t.nn.adapters import IA3, DoRA, LoRA
from t2t.nn.embeddings import Embedding, VirtualTokens
from t2t.nn.linear import Linear, LinearAdapter
from t2t.nn.parameters import axes_of, freeze, in_stack, modules, names, put, stack
from t2t.optim.paths import chosen, matching, select

if TYPE_CHECKING:
    from t2t.adapters.config import Adapter

FOLDERS = frozenset({"adapter", "virtual"})
"""Folders of an adapter's parameters: in those of its linear layer, and virtual tokens in those of the token embeddings."""


def is_of_adapter(path: str) -> bool:
    """Return whether a parameter belongs to an adapter, not to the model."""
    return not FOLDERS.isdisjoint(path.split("/"))


def attach(network: nnx.Module, adapter: Adapter) -> None:
    """Give linear layers of a newly built network their adapters, and freeze the other parameters.

    Raises UserError if a pattern matches nothing, if the rank is more than a matrix allows, or if a target cannot have dropout.
    """
    if adapter.kind == "prompt":
        _attach_prompt(network, adapter)
        return
    linears = modules(network, Linear)
    targets = targets_of(adapter, linears)
    if adapter.dropout and (outside := sorted(path for path in targets if not in_stack(path))):
        raise UserError(
            f"adapter.dropout {adapter.dropout} (--adapter.dropout): {outside[0]} is not in a stack of layers, and only the adapters in stacks have dropout."
            f" Nearest: 0.0, or --adapter.exclude {' '.join(outside)}."
        )
    trained = select(adapter.trained, names(network), where="adapter.trained")
    freeze(network, lambda path: path not in trained)
    scaled = {path for pattern in adapter.scaled_inputs for path in matching(pattern, targets)}
    for path in sorted(targets):
        put(linears[path], "adapter", _built(path, linears[path], adapter, scale_inputs=path in scaled))


def targets_of(adapter: Adapter, linears: Collection[str]) -> frozenset[str]:
    """Return the paths of the linear layers that get the adapter. Raises UserError if a pattern matches nothing, or if none is left."""
    targets = chosen(adapter.patterns, adapter.exclude, linears, where="adapter", name="targets", what="linear layer")
    if not targets:
        raise UserError(
            f"adapter.targets {', '.join(map(repr, adapter.patterns))} without adapter.exclude {', '.join(map(repr, adapter.exclude))} leaves no linear layer"
            f" (--adapter.targets, --adapter.exclude).{nearest(adapter.patterns[0], linears)}"
        )
    return targets


def _attach_prompt(network: nnx.Module, adapter: Adapter) -> None:
    """Give the token embeddings of the encoder, or of a decoder alone, virtual tokens."""
    assert adapter.virtual_tokens is not None
    tables = modules(network, Embedding)
    token = tables["encoder_embeddings/token" if "encoder_embeddings/token" in tables else "embeddings/token"]
    trained = select(adapter.trained, names(network), where="adapter.trained")
    freeze(network, lambda path: path not in trained)
    put(token, "virtual", VirtualTokens(adapter.virtual_tokens, token.table.get_value().shape[1]))


def _built(path: str, linear: Linear, adapter: Adapter, *, scale_inputs: bool) -> LinearAdapter:
    assert isinstance(linear.kernel, nnx.Param), "adapters come before quantized kernels"
    *layers, inputs, outputs = linear.kernel.get_value().shape
    axes = axes_of(linear.kernel)[-2:]
    sizes = (inputs, outputs, (axes[0], axes[1]))
    built: LinearAdapter
    if adapter.kind == "ia3":
        built = IA3(*sizes, scale_inputs=scale_inputs)
    else:
        assert adapter.rank is not None
        if adapter.rank > min(inputs, outputs):
            raise UserError(
                f"adapter.rank {adapter.rank} (--adapter.rank) is more than the rank of the kernel of {path}, which is {inputs} x {outputs}."
                f" Nearest: {min(inputs, outputs)}, or exclude it (--adapter.exclude {path})."
            )
        low_rank = DoRA if adapter.kind == "dora" else LoRA
        built = low_rank(*sizes, rank=adapter.rank, scale=adapter.scale, dropout=adapter.dropout)
    return stack(built, layers[0]) if layers else built
