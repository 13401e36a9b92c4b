"""Base class for the translation of a model family to and from `transformers`: its options and its tensors."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from t2t.errors import UserError, nearest
from t2t.export.mapping import Entry
from t2t.export.neutral import NEUTRAL
from t2t.export.patterns import shortest_pattern
from t2t.nn.model import EXECUTION, PRECISION, RATES, START, VECTORS, ModelConfig

_MISSING: Any = object()

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "relu2": "relu2",
    "silu": "silu",
    "swish": "silu",
}


LARGEST = 2**31 - 1
"""Largest allowed size in a config.json. A larger number is damaged, and does not fit an int32 index."""


class Options:
    """The options of a config.json. Each one must be read, or be known to have no effect.

    where:    the file, for error messages.
    accepted: unknown options that the user allows to be ignored.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str, accepted: Collection[str] = ()) -> None:
        self.where = where
        self._values = dict(values)
        self._accepted = set(accepted)
        self._asked: set[str] = set()

        if unknown := sorted(self._accepted - self._values.keys()):
            raise UserError(
                f"{where}: option {unknown[0]!r} (--accept-option) not found.{nearest(unknown[0], self._values)}"
            )

    @property
    def architecture(self) -> str:
        """The model class ("BertForMaskedLM"), or "" if config.json does not name it."""
        named = self._values.get("architectures")
        return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""

    def take(self, name: str, default: Any = _MISSING) -> Any:
        """Return the value of an option, or the default if it is missing or null. Raises UserError if there is no default."""
        self._asked.add(name)
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _MISSING:
            raise UserError(f"{self.where}: option {name!r} is missing.{nearest(name, self._values)}")
        return default

    def nullable(self, name: str, default: Any) -> Any:
        """Return the value of an option, which may be None, or the default if it is missing."""
        self._asked.add(name)
        return self._values.get(name, default)

    def number(self, name: str, default: Any = _MISSING) -> Any:
        """Return an option that is a number. Raises UserError if it is not a number."""
        value = self.take(name, default)
        if value is None:
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.refuse(name, value, "expected a number")
        return value

    def size(self, name: str, default: Any = _MISSING, *, least: int = 1) -> Any:
        """Return an option that is an integer from `least` to `LARGEST`. Raises UserError if it is not."""
        value = self.number(name, default)
        if value is not None and (not isinstance(value, int) or not least <= value <= LARGEST):
            raise self.refuse(name, value, f"expected an integer from {least} to {LARGEST}")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """Return an option that is true or false. Raises UserError if it is neither."""
        value = self.take(name, default)
        if not isinstance(value, bool):
            raise self.refuse(name, value, "expected true or false")
        return value

    def group(self, name: str) -> dict[str, Any]:
        """Return an option that is an object, or {} if it is missing. Raises UserError if it is not an object."""
        value = self.take(name, {})
        if not isinstance(value, dict):
            raise self.refuse(name, value, "expected an object")
        return value

    def must(self, name: str, wanted: Any, *, why: str) -> None:
        """Raise UserError if an option has a value other than `wanted`. why: the reason, for the error message."""
        value = self.take(name, wanted)
        if value != wanted and name not in self._accepted:
            raise self.refuse(name, value, f"{why}; only {wanted!r} is supported")

    def activation(self, name: str, default: str) -> str:
        """Return our name of an activation. Raises UserError if the activation is unknown."""
        value = self.take(name, default)
        if not isinstance(value, str) or value not in _ACTIVATIONS:
            raise self.refuse(name, value, f"unknown activation.{nearest(str(value), _ACTIVATIONS)}")
        return _ACTIVATIONS[value]

    def free(self, *names: str) -> None:
        """Mark options as having no effect on what the model computes."""
        self._asked.update(names)

    def refuse(self, name: str, value: Any, why: str) -> UserError:
        """Return the UserError for an unsupported value of an option."""
        shown = repr(value)
        return UserError(f"{self.where}: {name} is {shown if len(shown) <= 100 else f'{shown[:97]}...'}: {why}")

    @property
    def unknown(self) -> dict[str, Any]:
        """The options that were not read, and are not accepted or empty."""
        known = self._asked | self._accepted
        return {
            name: value for name, value in self._values.items() if name not in known and value not in (None, {}, [])
        }

    def finish(self) -> None:
        """Raise UserError, naming each, if there are options that were not read: they may change what the model computes."""
        unknown = [name for name in self.unknown if name not in NEUTRAL]
        rounding = self._values.get("quantization_config")
        if "quantization_config" in unknown and isinstance(rounding, dict) and "quant_method" in rounding:
            raise UserError(
                f"{self.where}: quantization_config.quant_method is {rounding['quant_method']!r}: quantized weights in this layout are not read."
                " Nearest: the checkpoint with float weights."
            )
        if unknown:
            listed = ", ".join(f"{name} = {self._values[name]!r}" for name in unknown)
            raise UserError(
                f"{self.where}: unknown option{'s' if len(unknown) > 1 else ''} {listed}, which may change what the model computes"
                f" (to ignore: --accept-option {' '.join(unknown)})"
            )


def activation_name(ours: str) -> str:
    """Return the `transformers` name of an activation."""
    return next(theirs for theirs, name in _ACTIVATIONS.items() if name == ours)


class Weights(Protocol):
    """The tensors of a checkpoint, as far as a configuration depends on them."""

    @property
    def names(self) -> Collection[str]:
        """The names of the tensors."""

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors are equal."""


class Family(abc.ABC):
    """Translation of one family, in both directions.

    name:        the name in messages.
    model_types: values of `model_type` in config.json. Exports write the first one.
    prefix:      prefix of the names of all tensors except the head's. A checkpoint of the base model does not have it.
    left_out:    pattern of tensors that are not read -> the reason.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    prefix: ClassVar[str] = ""
    left_out: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return our configuration. Raises UserError if an option is not supported."""

    @abc.abstractmethod
    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, including `model_type` and `architectures`; None if the configuration belongs to another family."""

    @abc.abstractmethod
    def entries(self, config: ModelConfig) -> Sequence[Entry]:
        """Return the table of tensors."""


_TOKEN_HEAD = ("tied", "scaled_head", "head_transform", "head_bias", "kept_pooler", "kept_pair_classifier")
_TRANSFORM = ("head_activation", "transform_bias")
_WITHOUT_EFFECT = (*EXECUTION, *VECTORS, *PRECISION, *RATES, *START)


def canonical(config: Any) -> Any:
    """Return the configuration in float32 with default values for all fields that do not change what trained parameters compute."""
    changes: dict[str, Any] = {}
    transformed = getattr(config, "head_transform" if config.output == "tokens" else "answer_transform", False)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "quantization" and value == "ternary":
            continue  # not the same function up to rounding
        if (
            field.name in _WITHOUT_EFFECT
            or (field.name in _TOKEN_HEAD and config.output != "tokens")
            or (field.name == "answer_transform" and config.output == "tokens")
            or (field.name in _TRANSFORM and not transformed)
            or (field.name == "pooler_activation" and not config.pooler)
        ):
            changes[field.name] = _default(field, value)
        elif field.name == "head_activation":
            changes[field.name] = value or config.encoder.activation
        elif dataclasses.is_dataclass(value) and hasattr(value, "head_size"):
            changes[field.name] = _canonical_stack(value)
    return dataclasses.replace(config, **changes)


def _canonical_stack(stack: Any) -> Any:
    if stack.moe_every > 1:
        stack = dataclasses.replace(stack, pattern=stack.places, moe_every=1)
    own_mixers = {name: tuple(map(_canonical_place, getattr(stack, name))) for name in ("first", "pattern")}
    stack = dataclasses.replace(stack, **own_mixers)
    if stack.pattern:
        repeated = stack.num_layers - len(stack.first)
        pattern = shortest_pattern([stack.pattern[layer % len(stack.pattern)] for layer in range(repeated)])
        # Options of the pattern are not those of the stack if there are other layers, which do not have them.
        own = ("mixer", "feed_forward", "convolution", "sparse")
        alike = len(pattern) == 1 and not stack.first and all(getattr(pattern[0], name) is None for name in own)
        stack = pattern[0].applied(stack) if alike else dataclasses.replace(stack, pattern=pattern)
    fields = {field.name: field for field in dataclasses.fields(stack)}
    unused = [name for name in fields if name in _WITHOUT_EFFECT]
    if stack.positions != "relative":
        unused += ["buckets", "max_distance", "relative_per_layer"]
    if not stack.latent.rank:
        unused += ["latent"]
    unused += [name for name in ("rotary", "disentangled") if stack.positions != name]
    if stack.positions not in ("sinusoidal", "rotary", "disentangled") and not stack.has_learned_positions:
        unused += ["max_length"]
    if not stack.has_learned_positions:
        unused += ["position_offset"]
    if not any(layer.window for layer in (stack, *stack.pattern, *stack.first)):
        unused += ["exact_window"]
    if not stack.qk_norm:
        unused += ["qk_norm_whole"]
    experts = [place.applied(stack).num_experts for place in (*stack.first, *stack.places)]
    if not any(experts):
        unused += [
            "experts_per_token",
            "expert_d_ff",
            "shared_expert_d_ff",
            "shared_expert_gate",
            "expert_capacity",
            "expert_limit",
            "expert_tokens",
            "router",
        ]
    changes = {name: _default(fields[name], getattr(stack, name)) for name in unused}
    if any(experts):
        # The other options of routers are for training, and so is the rate of biases that exist.
        names = ("scores", "normalized", "scale", "groups", "groups_per_token")
        computed = {name: getattr(stack.router, name) for name in names}
        computed["bias_rate"] = None if stack.router.bias_rate is None else 0.0
        changes |= {"router": dataclasses.replace(type(stack.router)(), **computed), "expert_d_ff": stack.expert_size}
    if all(experts):
        changes["d_ff"] = stack.expert_size
    return dataclasses.replace(
        stack,
        **changes,
        head_dim=stack.head_size,
        num_kv_heads=stack.key_heads,
        attention_biases=stack.has_attention_biases,
        attention_output_bias=stack.has_attention_output_bias,
        groups=None if stack.pattern or stack.first else stack.blocks,
    )


def _canonical_place(place: Any) -> Any:
    return place if place.mixer is None else dataclasses.replace(place, mixer=place.mixer.canonical())


def _default(field: dataclasses.Field[Any], value: Any) -> Any:
    return value if field.default is dataclasses.MISSING else field.default
