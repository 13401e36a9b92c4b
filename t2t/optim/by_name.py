"""Any optimizer of Optax, by its name."""

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
    """An optimizer by the dotted name of the function that makes it.

    The schedule is given as its `learning_rate`; where it takes a mask for weight decay, and `arguments` sets none, the mask
    is that of the parameters' specs.

    Args:
        name: "optax.lion", "optax.contrib.muon", or a function of a module of one's own that `--import` names.
        arguments: keyword arguments of that function other than `learning_rate`.
        per_layer: treat each layer of a stacked parameter as a parameter of its own. False for an optimizer that takes all
            parameters together.
    """

    name: str
    arguments: dict[str, bool | Whole | Finite | str | None] = field(default_factory=dict)
    per_layer: bool = True

    def rules(self, specs: Any) -> list[optax.GradientTransformation]:
        """Return the named optimizer. Raises UserError where it cannot be made with these arguments."""
        function = _find(self.name)
        accepted = inspect.signature(function).parameters
        arguments: dict[str, Any] = dict(self.arguments)
        if "learning_rate" in arguments:
            raise UserError("optimizer.arguments: the learning rate comes from optimizer.schedule, not from here")
        anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
        for argument in arguments:
            if argument not in accepted and not anything:
                raise UserError(
                    f"optimizer.arguments: {self.name} has no argument {argument!r}.{nearest(argument, accepted)}"
                )
        if "learning_rate" not in accepted:
            raise UserError(f"optimizer.name: {self.name} takes no learning_rate, and so is no whole optimizer")
        for mask in _DECAY_MASKS:
            if mask in accepted:
                arguments.setdefault(mask, decay_mask(specs))
        try:
            transform = function(learning_rate=self.schedule.build(), **arguments)
            rules = per_layer(transform, specs) if self.per_layer else transform
            # An optimizer that wants more than gradients and parameters (a loss value, a closure) fails here, not in the run.
            jax.eval_shape(lambda p: rules.update(p, rules.init(p), p), abstract_params(specs))
        except Exception as error:
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            raise UserError(f"optimizer.name: {self.name} cannot be used with these arguments: {reason}") from error
        return [rules]


def _find(name: str) -> Callable[..., optax.GradientTransformation]:
    """Return the function. Only Optax and modules that the user has asked for are looked into: the name may come from a stranger's file."""
    module_name, _, function_name = name.rpartition(".")
    choices = [f"optax.{choice}" for choice in _optimizers(optax)]
    if module_name and module_name.partition(".")[0] != "optax" and not is_own(module_name):
        raise UserError(
            f"optimizer.name: {name!r} is neither of Optax nor of a module of your own that --import names.{nearest(name, choices)}"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError):
        raise UserError(f"optimizer.name: there is no optimizer {name!r}.{nearest(name, choices)}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        choices = [f"{module_name}.{choice}" for choice in _optimizers(module)]
        raise UserError(f"optimizer.name: there is no optimizer {name!r}.{nearest(name, choices)}")
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
