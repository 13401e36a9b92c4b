"""Attach adapters to the parts of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flax import nnx

from t2t.adapters.targets import Matrix, targets_of
from t2t.errors import UserError
from t2t.nn.adapters import IA3, Adapters, DoRA, LoRA, LowRank
from t2t.nn.embeddings import Embedding, VirtualTokens
from t2t.nn.linear import Linear, LinearAdapter
from t2t.nn.parameters import axes_of, freeze, in_stack, modules, names, put, share_used, stack
from t2t.optim.paths import matching, select

if TYPE_CHECKING:
    from t2t.adapters.config import Adapter

FOLDERS = frozenset({"adapter", "virtual"})
"""Folders of an adapter's parameters: in those of its layer, and virtual tokens in those of the token embeddings."""


def is_of_adapter(path: str) -> bool:
    """Return whether a parameter belongs to an adapter, not to the model."""
    return not FOLDERS.isdisjoint(path.split("/"))


def attach(network: nnx.Module, adapter: Adapter) -> None:
    """Give parts of a newly built network their adapters, and freeze the other parameters.

    Raises UserError if a pattern matches nothing, if the rank is more than a matrix allows, or if a target cannot have the adapter's kind or dropout.
    """
    if adapter.kind == "prompt":
        _attach_prompt(network, adapter)
        return
    targets = targets_of(adapter, network)
    _check_matrices(adapter, [path for path, place in targets.items() if isinstance(place, Matrix)])
    if adapter.dropout and (outside := [path for path in targets if not in_stack(path)]):
        raise UserError(
            f"adapter.dropout {adapter.dropout} (--adapter.dropout): {outside[0]} is not in a stack of layers, and only the adapters in stacks have dropout."
            f" Nearest: 0.0, or --adapter.exclude {' '.join(outside)}."
        )
    trained = select(adapter.trained, names(network), where="adapter.trained")
    freeze(network, lambda path: path not in trained)
    scaled = {path for pattern in adapter.scaled_inputs for path in matching(pattern, targets)}
    for path, place in targets.items():
        if isinstance(place, Linear):
            put(place, "adapter", _built(path, place, adapter, scale_inputs=path in scaled))
        else:
            _put_low_rank(path, place, adapter)


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
        _check_rank(path, adapter.rank, inputs, outputs)
        low_rank = DoRA if adapter.kind == "dora" else LoRA
        built = low_rank(*sizes, rank=adapter.rank, scale=adapter.scale, dropout=adapter.dropout)
    return stack(built, layers[0]) if layers else built


def _put_low_rank(path: str, matrix: Matrix, adapter: Adapter) -> None:
    assert adapter.rank is not None
    shape, axes = matrix.parameter.get_value().shape, axes_of(matrix.parameter)
    layers = shape[0] if axes[0] == "layers" else None
    if layers is not None:
        shape, axes = shape[1:], axes[1:]
    _check_rank(path, adapter.rank, *shape[-2:])
    start, used = matrix.module.started_with(matrix.name), share_used(matrix.parameter)
    built = LowRank(shape, axes, rank=adapter.rank, scale=adapter.scale, used=used, **start)
    if layers is not None:
        stack(built, layers)
    if matrix.alone:
        put(matrix.module, "adapter", built)
        return
    adapters = matrix.module.adapter
    if adapters is None:
        put(matrix.module, "adapter", adapters := Adapters())
    put(adapters, matrix.name, built)


def _check_rank(path: str, rank: int, inputs: int, outputs: int) -> None:
    if rank > min(inputs, outputs):
        raise UserError(
            f"adapter.rank {rank} (--adapter.rank) is more than the rank of the kernel of {path}, which is {inputs} x {outputs}."
            f" Nearest: {min(inputs, outputs)}, or exclude it (--adapter.exclude {path})."
        )


def _check_matrices(adapter: Adapter, paths: list[str]) -> None:
    """Raise UserError if targets that are not linear layers cannot have the adapter. paths: of these targets."""
    if paths and adapter.kind != "lora":
        raise UserError(
            f"adapter.kind {adapter.kind!r} (--adapter.kind): {paths[0]} is not a linear layer, and can have LoRA only."
            f" Nearest: lora, or --adapter.exclude {' '.join(paths)}."
        )
    if paths and adapter.dropout:
        raise UserError(
            f"adapter.dropout {adapter.dropout} (--adapter.dropout): {paths[0]} is not a linear layer, and only adapters of these have dropout."
            f" Nearest: 0.0, or --adapter.exclude {' '.join(paths)}."
        )
