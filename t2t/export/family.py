"""What a model family tells of its life in `transformers`: its options, its tensors."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from t2t.errors import UserError, nearest
from t2t.export.mapping import Entry
from t2t.export.neutral import NEUTRAL
from t2t.nn.model import EXECUTION, PRECISION, RATES, START, ModelConfig

_MISSING: Any = object()

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


LARGEST = 2**31 - 1
"""Of any size in a config.json: more is a damaged number, and beyond what indices hold."""


class Options:
    """The options of a config.json; every one must be asked for, or be known to change nothing.

    where:    the file, for errors.
    accepted: options the user takes responsibility for: not read, and no error.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str, accepted: Collection[str] = ()) -> None:
        self.where = where
        self._values = dict(values)
        self._accepted = set(accepted)
        self._asked: set[str] = set()

        if unknown := sorted(self._accepted - self._values.keys()):
            raise UserError(f"{where}: no option {unknown[0]!r} (--accept-option).{nearest(unknown[0], self._values)}")

    @property
    def architecture(self) -> str:
        """The class whose tensors these are ("BertForMaskedLM"), "" where nothing says."""
        named = self._values.get("architectures")
        return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """Return an option's value; the default where it is not there or null. Raises UserError where there is no default."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _MISSING:
            raise UserError(f"{self.where}: no option {name!r}.{nearest(name, self._values)}")
        return default

    def nullable(self, name: str, default: Any) -> Any:
        """Return an option's value, None where it is null; the default where it is not there."""
        self._asked.add(name)
        return self._values.get(name, default)

    def number(self, name: str, default: Any = _MISSING) -> Any:
        """Return an option that is a number. Raises UserError where it is not."""
        value = self.take(name, default)
        if value is None:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refuse(name, value, "a number is wanted")
        return value

    def size(self, name: str, default: Any = _MISSING, *, least: int = 1) -> Any:
        """Return an option that counts something, from `least` to `LARGEST`. Raises UserError where it does not."""
        value = self.number(name, default)
        if value is not None and (not isinstance(value, int) or not least <= value <= LARGEST):
            raise self.refuse(name, value, f"a whole number from {least} to {LARGEST} is wanted")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return an option that is true or false. Raises UserError where it is neither."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, value, "true or false is wanted")
        return value

    def group(self, name: str) -> dict[str, Any]:
        """Return an option that is an object of options, {} where it is not there. Raises UserError where it is something else."""
        value = self.take(name, {})
        if not isinstance(value, dict):
            raise self.refuse(name, value, "an object is wanted")
        return value

    def must(self, name: str, wanted: Any, *, why: str) -> None:
        """Refuse an option that is there with another value. Raises UserError."""
        value = self.take(name, wanted)
        if value != wanted and name not in self._accepted:
            raise self.refuse(name, value, f"{why}; only {wanted!r} can be honoured")

    def activation(self, name: str, default: str) -> str:
        """Return our name of an activation. Raises UserError for one that is not here."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise self.refuse(name, value, f"no such activation here.{nearest(str(value), _ACTIVATIONS)}")
        return _ACTIVATIONS[value]

    def free(self, *names: str) -> None:
        """Take note that options change nothing of the mathematics."""
        self._asked.update(names)

    def refuse(self, name: str, value: Any, why: str) -> UserError:
        """Return the error that refuses an option."""
        shown = repr(value)
        return UserError(f"{self.where}: {name} is {shown if len(shown) <= 100 else f'{shown[:97]}...'}: {why}")

    def finish(self) -> None:
        """Refuse what was never asked for: it might change the mathematics. Raises UserError, naming each."""
        known = self._asked | NEUTRAL.keys() | self._accepted
        unknown = [name for name, value in self._values.items() if name not in known and value not in (None, {}, [])]
        if unknown:
            said = ", ".join(f"{name} = {self._values[name]!r}" for name in unknown)
            raise UserError(
                f"{self.where}: unknown option{'s' if len(unknown) > 1 else ''} {said}, which may change what the model computes"
                f" (--accept-option {' '.join(unknown)} goes on without)"
            )


def activation_name(ours: str) -> str:
    """Return how `transformers` calls an activation."""
    return next(theirs for theirs, own in _ACTIVATIONS.items() if own == ours)


class Weights(Protocol):
    """The tensors that are there, as far as a configuration needs to know them."""

    @property
    def names(self) -> Collection[str]:
        """Their names."""

    def equal(self, one: str, other: str) -> bool:
        """Whether two of them are equal."""


class Family(abc.ABC):
    """One family's translation, both ways.

    name:         in messages.
    model_types:  `model_type` in config.json, the one written first.
    architecture: written to config.json.
    prefix:       of the names of all tensors but the head's; a checkpoint of the base model lacks it.
    left_out:     patterns of tensors that are not read, each with the reason.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str] = ""
    left_out: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return our configuration. Raises UserError for what cannot be honoured."""

    @abc.abstractmethod
    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, `model_type` and `architectures` among them; None where it is another family's."""

    @abc.abstractmethod
    def entries(self, config: ModelConfig) -> Sequence[Entry]:
        """Return the table of tensors."""


_OF_WORDS = ("tied", "scaled_head", "head_transform", "head_bias", "head_activation")
_WITHOUT_EFFECT = (*EXECUTION, *PRECISION, *RATES, *START)


def canonical(config: Any) -> Any:
    """Return the configuration with all that does not change the function of trained parameters set to one value, which computes in float32."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if (
            field.name in _WITHOUT_EFFECT
            or (field.name in _OF_WORDS and config.output != "tokens")
            or (field.name == "pooler_activation" and not config.pooler)
        ):
            changes[field.name] = _default(field, value)
        elif field.name == "head_activation" and not config.head_transform:
            changes[field.name] = None
        elif field.name == "head_activation":
            changes[field.name] = value or config.encoder.activation
        elif dataclasses.is_dataclass(value) and hasattr(value, "head_size"):
            changes[field.name] = _canonical_stack(value)
    return dataclasses.replace(config, **changes)


def _canonical_stack(stack: Any) -> Any:
    fields = {field.name: field for field in dataclasses.fields(stack)}
    unused = [name for name in fields if name in _WITHOUT_EFFECT]
    if stack.positions != "relative":
        unused += ["buckets", "max_distance", "relative_per_layer"]
    if stack.positions != "rotary":
        unused += ["rotary"]
    if stack.positions not in ("learned", "rotary"):
        unused += ["max_length"]
    if stack.positions != "learned":
        unused += ["position_offset"]
    changes = {name: _default(fields[name], getattr(stack, name)) for name in unused}
    biases = stack.biases if stack.attention_biases is None else stack.attention_biases
    return dataclasses.replace(
        stack,
        **changes,
        head_dim=stack.head_size,
        num_kv_heads=stack.key_heads,
        attention_biases=biases,
        groups=stack.blocks,
    )


def _default(field: dataclasses.Field[Any], value: Any) -> Any:
    return value if field.default is dataclasses.MISSING else field.default
