"""Any Optax optimizer, by name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import jax
import optax

from t2t.config_classes import is_own
from t2t.errors import UserError, nearest
from t2t.limits import Range
from t2t.optim.optimizers import OptimizerConfig, decay_mask
from t2t.optim.per_layer import per_layer
from t2t.optim.state_axes import abstract_params

Whole = Annotated[int, Range(-(2**31), 2**31 - 1)]
Finite = Annotated[float, Range(-1e20, 1e20)]
_DECAY_MASKS = ("mask", "weight_decay_mask")


@dataclass(frozen=True, kw_only=True)
class Optax(OptimizerConfig):
    """An optimizer, given by the dotted name of the function that creates it.

    The function gets the schedule as `learning_rate`. If it takes a mask for weight decay, and `arguments` has none, it gets the mask of the
    parameters' specs.

    Args:
        name: "optax.lion", "optax.contrib.muon", or a function of your own module that `--import` names.
        arguments: keyword arguments of that function, without `learning_rate`.
        per_layer: treat each layer of a stacked parameter as a separate parameter. Use False for an optimizer that mixes parameters.
    """

    name: str
    arguments: dict[str, bool | Whole | Finite | str | None] = field(default_factory=dict)
    per_layer: bool = True

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return the named optimizer. Raises UserError if it cannot be created with these arguments."""
        function = _find(self.name)
        accepted = inspect.signature(function).parameters
        arguments: dict[str, Any] = dict(self.arguments)
        if "learning_rate" in arguments:
            raise UserError("optimizer.arguments: learning_rate is not allowed here, it comes from optimizer.schedule")
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
        for argument in arguments:
            if argument not in accepted and not anything:
                raise UserError(
                    f"optimizer.arguments: {self.name} has no argument {argument!r}.{nearest(argument, accepted)}"
                )
        if "learning_rate" not in accepted:
            raise UserError(f"optimizer.name: {self.name} takes no learning_rate, so it is not a complete optimizer")
        for mask in _DECAY_MASKS:
            if mask in accepted:
                arguments.setdefault(mask, decay_mask(specs))
        try:
            transform = function(learning_rate=self.schedule.build(), **arguments)
            rules = per_layer(transform, specs) if self.per_layer else transform
            # An optimizer that needs more than gradients and parameters (a loss value, a closure) fails here, not during the run.
            jax.eval_shape(lambda p: rules.update(p, rules.init(p), p), abstract_params(specs))
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(f"optimizer.name: {self.name} cannot be used with these arguments: {reason}") from error
        return [rules]


def _find(name: str) -> Callable[..., optax.GradientTransformation]:
    """Return the function. Only Optax and the user's imported modules are allowed: the name may come from an untrusted file."""
    module_name, _, function_name = name.rpartition(".")
    choices = [f"optax.{choice}" for choice in _optimizers(optax)]
    if module_name and module_name.partition(".")[0] != "optax" and not is_own(module_name):
        raise UserError(
            f"optimizer.name: {name!r} is neither in Optax nor in one of your own modules (--import).{nearest(name, choices)}"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError):
        raise UserError(f"optimizer.name: unknown optimizer {name!r}.{nearest(name, choices)}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        choices = [f"{module_name}.{choice}" for choice in _optimizers(module)]
        raise UserError(f"optimizer.name: unknown optimizer {name!r}.{nearest(name, choices)}")
    return function


def _optimizers(module: Any) -> list[str]:
    """Return the functions of a module that take a learning rate."""
    names = []
    for name, value in vars(module).items():
        if (
            inspect.isfunction(value)
            and not name.startswith("_")
            and "learning_rate" in inspect.signature(value).parameters
        ):
            names.append(name)
    return names
