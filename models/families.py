"""The families that are known to `transformers` too, and which of them a model is of."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from t2t import config as configuration
from t2t.errors import UserError, nearest
from t2t.export.family import Family, Options, canonical
from t2t.export.mapping import Tensor, tensors
from t2t.models.albert.mapping import Albert
from t2t.models.bert.mapping import Bert
from t2t.models.config import TransformerConfig
from t2t.models.distilbert.mapping import DistilBert
from t2t.models.gpt.mapping import GPT2
from t2t.models.llama.mapping import Llama
from t2t.models.roberta.mapping import Roberta
from t2t.models.t5.mapping import T5, UMT5
from t2t.nn.model import RATES, ModelConfig

FAMILIES: tuple[Family, ...] = (T5(), UMT5(), Albert(), Roberta(), Bert(), DistilBert(), GPT2(), Llama())
"""The families of the library."""

_Class = TypeVar("_Class", bound=type[Family])
_registered: dict[str, Family] = {}


def register(cls: _Class) -> _Class:
    """Make a family of the user's own known, and return the class: a decorator. A later family of the same name replaces an earlier one.

    Raises UserError where a family of the library has its name or one of its model types.
    """
    for known in FAMILIES:
        same = set(known.model_types) & set(cls.model_types)
        if same or known.name == cls.name:
            raise UserError(f"family {cls.__name__}: {min(same, default=cls.name)!r} is {known.name} of the library")
    _registered[cls.name] = cls()
    return cls


def families() -> tuple[Family, ...]:
    """Return all families: those of the library, then the registered ones."""
    return (*FAMILIES, *_registered.values())


def family_of(model_type: str, *, where: str) -> Family:
    """Return the family of a config.json's model_type. Raises UserError where it is none of ours."""
    for family in families():
        if model_type in family.model_types:
            return family
    known = [name for family in families() for name in family.model_types]
    raise UserError(f"{where}: model_type is {model_type!r}, none of {', '.join(known)}.{nearest(model_type, known)}")


class _Written:
    """The tensors that a table would write; no two are equal."""

    def __init__(self, wanted: list[Tensor]) -> None:
        self.names = {tensor.name for tensor in wanted}

    def equal(self, one: str, other: str) -> bool:
        return False


def left_behind(config: ModelConfig, family: Family, options: dict[str, Any]) -> list[str]:
    """Return what of training the options of a config.json do not carry, a line "dropout 0.1" each: rates of dropout, and a quantization."""
    wanted = tensors(family.entries(config), config.build().specs)
    read, own = family.config(Options(options, where="config.json"), _Written(wanted)), config
    if isinstance(read, TransformerConfig) and isinstance(own, TransformerConfig):
        read, own = (dataclasses.replace(one, attention_dropout=one.attention_rate) for one in (read, own))
    lost = [line for line in configuration.differences(read, own) if line.partition(":")[0].rpartition(".")[2] in RATES]
    said = [f"{path} {change.rpartition(' -> ')[2]}" for path, _, change in (line.partition(": ") for line in lost)]
    quantization = config.quantization
    return said if quantization == "none" else [*said, f"quantization {quantization}"]


def exportable(config: ModelConfig) -> tuple[Family, dict[str, Any], list[Tensor]]:
    """Return the family a model is of, its options for config.json and its tensors.

    Raises UserError, naming the choices, where `transformers` has no such model: the options read back must give this configuration.
    """
    specs = config.build().specs
    reasons: list[str] = []
    for family in families():
        options = family.options(config)
        if options is None:
            continue
        try:
            wanted = tensors(family.entries(config), specs)
            back = family.config(Options(options, where="config.json"), _Written(wanted))
        except (RuntimeError, UserError) as error:
            reasons.append(f"{family.name}: {error}")
            continue
        changed = configuration.differences(canonical(back), canonical(config))
        if not changed:
            return family, options, wanted
        reasons.append(f"{family.name} has {'; '.join(line.replace(' -> ', ', the model ') for line in changed)}")
    raise UserError(
        f"transformers has no model like this one: {' / '.join(reasons) or f'no family of kind {config.kind} is known'}"
    )
