"""Select the trainable and the frozen parameters, and split and merge trees of parameters accordingly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from t2t.errors import UserError
from t2t.limits import Configuration
from t2t.nn.model import Model, ParamSpec
from t2t.nn.weights import Quantize
from t2t.optim.paths import chosen, flatten_specs, map_specs


@dataclass(frozen=True, kw_only=True)
class Trainable(Configuration):
    """Which parameters are trained. The others are frozen: they have no gradient and no optimizer state, and do not count in clipping.

    Args:
        include: glob patterns of the parameter paths to train ("decoder/**").
        exclude: glob patterns of parameter paths to freeze, even if they match `include` ("encoder/**").
        frozen_dtype: dtype of the frozen parameters. Trainable parameters are always float32.
        quantize: how to store the frozen kernels of linear layers in stacks of layers: "nf4" (QLoRA), or integers with a scale for each output ("int8", "int4") or
            for each group of 64 inputs ("int8_groups", "int4_groups"), or "ternary" for models with ternary weights (BitNet). The run starts from another run, whose
            kernels are quantized when they are read.
        frozen_storage: how checkpoints store the frozen parameters, once for all steps: "copy", or "reference" to the checkpoint of
            `start_from`, which must then not be moved or deleted.
    """

    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    quantize: Quantize = "none"
    frozen_storage: Literal["copy", "reference"] = "copy"

    def apply(self, specs: Any) -> dict[str, Any]:
        """Return the nested dict of ParamSpec with `trainable` and `dtype` set. Parameters that the model itself freezes stay frozen.

        Raises UserError if a pattern matches no parameter, if no parameter is trainable, or if `frozen_dtype` or `frozen_storage` is set but no
        parameter is frozen.
        """
        taken = chosen(self.include, self.exclude, flatten_specs(specs), where="trainable")

        def one(path: str, spec: ParamSpec) -> ParamSpec:
            if spec.trainable and path in taken:
                return spec
            dtype = spec.dtype if spec.stands_for is not None else jnp.dtype(self.frozen_dtype)
            return replace(spec, trainable=False, dtype=dtype)

        applied: dict[str, Any] = map_specs(one, specs)
        found = {spec.trainable for spec in flatten_specs(applied).values()}
        if True not in found:
            raise UserError(
                f"trainable.include {_quoted(self.include)} without trainable.exclude {_quoted(self.exclude)} leaves no parameter to train"
                " (--trainable.include, --trainable.exclude)"
            )
        if False not in found and self.frozen_dtype != "float32":
            raise UserError(
                f"trainable.frozen_dtype {self.frozen_dtype} (--trainable.frozen-dtype): no parameter is frozen."
                " Nearest: float32, or freeze parameters with --trainable.exclude."
            )
        if False not in found and self.frozen_storage != "copy":
            raise UserError(
                f"trainable.frozen_storage {self.frozen_storage} (--trainable.frozen-storage): no parameter is frozen."
                " Nearest: copy, or freeze parameters with --trainable.exclude."
            )
        return applied

    def quantized(self, model: Model) -> Model:
        """Return the model with its frozen kernels quantized, as `quantize` says.

        Raises UserError like `apply`, if no kernel in a stack of layers is frozen, or if the model cannot have quantized kernels.
        """
        if self.quantize == "none":
            return model
        frozen = {path for path, spec in flatten_specs(self.apply(model.specs)).items() if not spec.trainable}
        changed = model.quantized(self.quantize, frozen.__contains__, option="--trainable.quantize")
        if not changed.quantized_kernels:
            raise UserError(
                f"trainable.quantize {self.quantize} (--trainable.quantize): no linear layer in a stack of layers is frozen."
                " Nearest: none, or --adapter.rank 16, which freezes the model."
            )
        return changed


def split(tree: Any, specs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the trainable and the frozen part of a nested dict with one leaf for each parameter of `specs`."""
    flat = flatten_dict(specs)
    parts: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    for path, leaf in flatten_dict(tree).items():
        parts[0 if flat[path].trainable else 1][path] = leaf
    return unflatten_dict(parts[0]), unflatten_dict(parts[1])


def merge(trainable: Any, frozen: Any) -> dict[str, Any]:
    """Return the nested dict of both parts: the inverse of `split`."""
    merged: dict[str, Any] = unflatten_dict({**flatten_dict(trainable), **flatten_dict(frozen)})
    return merged


def trainable_specs(specs: Any) -> dict[str, Any]:
    """Return the nested dict of only the trainable specs."""
    return split(specs, specs)[0]


def _quoted(patterns: tuple[str, ...]) -> str:
    return ", ".join(map(repr, patterns)) or "nothing"
