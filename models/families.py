"""The model families that `transformers` also has, and the choice of the family for a model."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from t2t import config as configuration
from t2t.errors import UserError, nearest
from t2t.export.family import Family, Options, canonical
from t2t.export.mapping import Tensor, tensors
from t2t.models.albert.mapping import Albert
from t2t.models.bart.mapping import Bart
from t2t.models.bert.mapping import Bert
from t2t.models.bitnet.mapping import BitNet
from t2t.models.deberta.mapping import DebertaV2
from t2t.models.deepseek.mapping import DeepseekV3
from t2t.models.distilbert.mapping import DistilBert
from t2t.models.electra.mapping import Electra
from t2t.models.encoder import EncoderConfig
from t2t.models.eurobert.mapping import EuroBert
from t2t.models.gemma.mapping import Gemma2, Gemma3
from t2t.models.gpt.mapping import GPT2
from t2t.models.gptoss.mapping import GptOss
from t2t.models.llama.mapping import Llama
from t2t.models.longt5.mapping import LongT5
from t2t.models.mamba.mapping import Mamba, Mamba2
from t2t.models.marian.mapping import Marian
from t2t.models.mbart.mapping import MBart
from t2t.models.mixtral.mapping import Mixtral
from t2t.models.modernbert.mapping import ModernBert
from t2t.models.mpnet.mapping import MPNet
from t2t.models.neobert.mapping import NeoBert
from t2t.models.neox.mapping import GPTNeoX
from t2t.models.olmo.mapping import Olmo2, Olmo3
from t2t.models.pegasus.mapping import Pegasus
from t2t.models.phi.mapping import Phi3
from t2t.models.qwen.mapping import Qwen2, Qwen3, Qwen3MoE
from t2t.models.qwen.next_mapping import Qwen3Next
from t2t.models.roberta.mapping import Roberta, XLMRobertaXL
from t2t.models.rwkv.mapping import RWKV4
from t2t.models.smollm3.mapping import SmolLM3
from t2t.models.switch.mapping import SwitchTransformers
from t2t.models.t5.mapping import T5, UMT5
from t2t.models.t5gemma.mapping import T5Gemma
from t2t.models.t5gemma2.mapping import T5Gemma2
from t2t.models.transformer_config import TransformerConfig
from t2t.nn.model import RATES, ModelConfig
from t2t.nn.recurrent.gated_delta_net import GatedDeltaNetConfig
from t2t.nn.recurrent.mamba import MambaConfig
from t2t.nn.recurrent.mamba2 import Mamba2Config
from t2t.nn.recurrent.rwkv4 import RWKV4Config

FAMILIES: tuple[Family, ...] = (
    T5(),
    UMT5(),
    LongT5(),
    SwitchTransformers(),
    Bart(),
    MBart(),
    Pegasus(),
    Marian(),
    Electra(),
    Albert(),
    MPNet(),
    DebertaV2(),
    Roberta(),
    XLMRobertaXL(),
    Bert(),
    DistilBert(),
    GPT2(),
    Llama(),
    BitNet(),
    Mixtral(),
    GptOss(),
    ModernBert(),
    EuroBert(),
    NeoBert(),  # after EuroBERT, which computes the same without a head, and is part of transformers
    Qwen2(),
    Qwen3(),
    Qwen3MoE(),
    Qwen3Next(),
    DeepseekV3(),
    Gemma2(),
    Gemma3(),
    SmolLM3(),
    Olmo2(),
    Olmo3(),
    Phi3(),
    GPTNeoX(),
    Mamba(),
    Mamba2(),
    RWKV4(),
    T5Gemma(),
    T5Gemma2(),
)
"""The built-in families."""
_MIXERS = (MambaConfig, Mamba2Config, RWKV4Config, GatedDeltaNetConfig)
"""The mixers other than attention that `transformers` has, all of them in decoders only."""

_Class = TypeVar("_Class", bound=type[Family])
_registered: dict[str, Family] = {}


def register(cls: _Class) -> _Class:
    """Class decorator that registers a user's family. A later family of the same name replaces an earlier one.

    Raises UserError if a built-in family has the same name or one of its model types.
    """
    for known in FAMILIES:
        same = set(known.model_types) & set(cls.model_types)
        if same or known.name == cls.name:
            raise UserError(
                f"family {cls.__name__}: {min(same, default=cls.name)!r} belongs to the built-in family {known.name}"
            )
    _registered[cls.name] = cls()
    return cls


def families() -> tuple[Family, ...]:
    """Return all families: the built-in ones, then the registered ones."""
    return (*FAMILIES, *_registered.values())


def family_of(model_type: str, *, where: str) -> Family:
    """Return the family of a model_type of config.json. Raises UserError if no family has it."""
    for family in families():
        if model_type in family.model_types:
            return family
    known = [name for family in families() for name in family.model_types]
    raise UserError(
        f"{where}: unknown model_type {model_type!r}; expected one of {', '.join(known)}.{nearest(model_type, known)}"
    )


class _ExportedTensors:
    """The names of the tensors that an export would write. No two tensors are equal."""

    def __init__(self, wanted: list[Tensor]) -> None:
        self.names = {tensor.name for tensor in wanted}

    def equal(self, one: str, other: str) -> bool:
        return False


def _stored(config: ModelConfig) -> ModelConfig:
    """Return the model without the layer of its vectors, which `transformers` does not have."""
    return dataclasses.replace(config, vector_dense=None) if isinstance(config, EncoderConfig) else config


def left_behind(config: ModelConfig, family: Family, options: dict[str, Any]) -> list[str]:
    """Return the training options that a config.json does not store, as lines like "dropout 0.1": dropout rates and quantization."""
    wanted = tensors(family.entries(config), _stored(config).build().specs)
    exported, trained = family.config(Options(options, where="config.json"), _ExportedTensors(wanted)), config
    if isinstance(exported, TransformerConfig) and isinstance(trained, TransformerConfig):
        exported, trained = (
            dataclasses.replace(one, attention_dropout=one.attention_rate) for one in (exported, trained)
        )
    lost_rates = [
        line
        for line in configuration.differences(exported, trained)
        if line.partition(":")[0].rpartition(".")[2] in RATES
    ]
    lines = [
        f"{path} {change.rpartition(' -> ')[2]}" for path, _, change in (line.partition(": ") for line in lost_rates)
    ]
    quantization = config.quantization
    return lines if quantization in ("none", "ternary") else [*lines, f"quantization {quantization}"]


def _foreign_mixer(config: ModelConfig) -> str | None:
    """Return the name of a mixer that no model of `transformers` has; None if there is none."""
    stacks = config.stacks if isinstance(config, TransformerConfig) else ()
    mixers = [layer.mixer for stack in stacks for layer in (*stack.first, *stack.pattern) if layer.mixer is not None]
    known = _MIXERS if config.kind == "decoder" else ()
    return next((type(mixer).__name__ for mixer in mixers if not isinstance(mixer, known)), None)


def exportable(config: ModelConfig) -> tuple[Family, dict[str, Any], list[Tensor]]:
    """Return the family of a model, its options for config.json and its tensors.

    Raises UserError if `transformers` has no such model: reading the options back must give the same configuration. The message names the differences.
    """
    specs = _stored(config).build().specs
    reasons: list[str] = []
    for family in families():
        options = family.options(config)
        if options is None:
            continue
        try:
            wanted = tensors(family.entries(config), specs)
            back = family.config(Options(options, where="config.json"), _ExportedTensors(wanted))
        except (RuntimeError, UserError) as error:
            reasons.append(f"{family.name}: {error}")
            continue
        changed = configuration.differences(canonical(back), canonical(config))
        if not changed:
            return family, options, wanted
        reasons.append(f"{family.name} has {'; '.join(line.replace(' -> ', ', the model ') for line in changed)}")
    if (mixer := _foreign_mixer(config)) is not None:
        raise UserError(
            f"transformers has no model like this one: no {config.kind} there has layers with a {mixer} (model.pattern). Nearest: --format safetensors."
        )
    raise UserError(
        f"transformers has no model like this one: {' / '.join(reasons) or f'no family has models of kind {config.kind}'}"
    )
