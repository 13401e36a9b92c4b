"""Put several LoRA adapters beside one network, and their matrices side by side."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.adapters.config import Adapter
from t2t.adapters.targets import targets_of
from t2t.errors import UserError
from t2t.nn.adapters import AdapterBank
from t2t.nn.linear import Linear
from t2t.nn.parameters import axes_of, put, stack
from t2t.types import Params


def attach_bank(network: nnx.Module, adapters: Sequence[Adapter]) -> None:
    """Give each linear layer of a newly built network that any of the LoRA adapters changes the matrices of all of them.

    Raises UserError if an adapter changes another part, because the rows of a batch share it.
    """
    targets = [targets_of(adapter, network) for adapter in adapters]
    for path, linear in sorted({path: place for own in targets for path, place in own.items()}.items()):
        if not isinstance(linear, Linear):
            raise UserError(
                f"adapters: {path} is not a linear layer, and rows of one batch can have different adapters of these only. Nearest: t2t infer RUN, for each run."
            )
        assert isinstance(linear.kernel, nnx.Param), "adapters come before quantized kernels"
        *layers, inputs, outputs = linear.kernel.get_value().shape
        axes = axes_of(linear.kernel)[-2:]
        ranks = tuple((adapter.rank or 0) if path in own else 0 for adapter, own in zip(adapters, targets, strict=True))
        bank = AdapterBank(inputs, outputs, (axes[0], axes[1]), ranks=ranks)
        put(linear, "adapter", stack(bank, layers[0]) if layers else bank)


def side_by_side(adapters: Sequence[Adapter], params: Sequence[Params]) -> Params:
    """Return the parameters that `attach_bank` adds to a network.

    params: for each adapter, the parameters of the model with it.
    """
    flat = [flatten_dict(one, sep="/") for one in params]
    names = sorted({name for one in flat for name in one if name.endswith(("/adapter/a", "/adapter/b"))})
    found: dict[str, jax.Array] = {}
    for name in names:
        scaled, axis = name.endswith("/b"), -2 if name.endswith("/b") else -1
        parts = [
            one[name] * adapter.scale if scaled else one[name]
            for adapter, one in zip(adapters, flat, strict=True)
            if name in one
        ]
        found[name] = jnp.concatenate(parts, axis=axis)
    nested: Params = unflatten_dict(found, sep="/")
    return nested
