"""Conversion of DeBERTa v2 and v3 to and from `transformers` (DebertaV2ForMaskedLM, DebertaV2Model, and the heads of `bert/heads.py`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast, get_args

import numpy as np

from t2t.export.family import Family, Options, Weights, activation_name
from t2t.export.mapping import Entry, Operation, Shape, linear, normalised, same
from t2t.export.patterns import in_pattern
from t2t.models.answer_heads import PoolerActivation
from t2t.models.bert.heads import Heads
from t2t.models.bert.mapping import common, common_options, head
from t2t.models.config import StackConfig
from t2t.models.deberta.presets import deberta
from t2t.models.encoder import EncoderConfig
from t2t.nn.convolution import ConvolutionActivation, ConvolutionConfig
from t2t.nn.disentangled import Disentangled
from t2t.nn.model import ModelConfig

_LEGACY, _LATER = "cls.predictions", "lm_predictions.lm_head"
"""Names of the masked-LM head: with the option `legacy` true, which is the default, and false."""
_TERMS = {"c2p": "content_to_position", "p2c": "position_to_content"}


class DebertaV2(Family):
    """DeBERTa v2 and v3."""

    name = "DeBERTa"
    model_types = ("deberta-v2",)
    prefix = "deberta."
    heads = Heads(model="DebertaV2", pooler="pooler.dense", activation="gelu")
    left_out: ClassVar[Mapping[str, str]] = {
        r"mask_predictions\..*": "the discriminator's head, which transformers does not have",
        r"lm_predictions\..*": 'a masked-LM head that transformers reads only with the option "legacy": false',
        r"(deberta\.)?embeddings\.position_embeddings\.weight": "position_biased_input is false",
        r"cls\.predictions\.bias": "an untied head uses decoder.bias instead",
        r"pooler\.dense\.(weight|bias)": "classifiers of texts use the pooler, this model does not",
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Without the tensors of a masked-LM head, logits are the product with the embeddings."""
        legacy = options.flag("legacy", True)
        masked_lm = (f"{_LEGACY}.transform.dense.weight" if legacy else f"{_LATER}.dense.weight") in weights.names
        sizes = {**common(options), "norm_epsilon": options.number("layer_norm_eps", 1e-7)}
        width = sizes["d_model"]
        options.must("attention_head_size", width // sizes["num_heads"], why="heads of another size cannot be merged")
        head_fields = self.heads.read(options, weights, masked_lm=masked_lm)
        if not legacy:
            head_fields["tied"] = True  # That head multiplies by the embeddings, whatever tie_word_embeddings says.
        embedding_size = options.size("embedding_size", width)
        narrow = {} if embedding_size == width else {"embedding_size": embedding_size, "embedding_norm_wide": True}
        if narrow and not masked_lm and "head" not in head_fields:
            head_fields["head"] = "vectors"  # the embeddings are too narrow to compute logits from the outputs
        return deberta(
            **sizes,
            types=options.size("type_vocab_size", 0, least=0),
            learned_positions=options.flag("position_biased_input", True),
            disentangled=_positions(options, sizes["max_length"]),
            convolution=_convolution(options),
            **narrow,
            **{**head_fields, **_pooler(options, width, sizes["dropout"], used="pooler" in head_fields)},
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or config.encoder.positions != "disentangled":
            return None
        stack, positions = config.encoder, config.encoder.disentangled
        first = _first_convolution(stack)
        narrow = {} if config.embedding_size is None else {"embedding_size": config.embedding_size}
        convolution = (
            {}
            if first is None
            else {"conv_kernel_size": first.size, "conv_act": _CONVOLUTION_NAMES[first.activation], "conv_groups": 1}
        )
        return {
            "architectures": ["DebertaV2ForMaskedLM" if config.head_transform else "DebertaV2Model"],
            "model_type": "deberta-v2",
            **common_options(config),
            **narrow,
            "relative_attention": True,
            "position_biased_input": stack.learned_positions,
            "pos_att_type": [name for name, term in _TERMS.items() if getattr(positions, term)],
            "position_buckets": -1 if positions.buckets is None else positions.buckets,
            "max_relative_positions": positions.max_distance,
            "share_att_key": positions.shared_projections,
            "norm_rel_ebd": "layer_norm" if positions.norm else "none",
            **convolution,
            "pooler_hidden_size": stack.d_model,
            "pooler_hidden_act": config.pooler_activation if config.pooler else "gelu",
            "pooler_dropout": 0,
            "legacy": True,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        stack, positions = config.encoder, config.encoder.disentangled
        copies = (
            (f"{_LEGACY}.decoder.weight",) if config.tied and config.head_transform and config.head == "tokens" else ()
        )
        table = [
            same("deberta.embeddings.word_embeddings.weight", "embeddings/token/table", *copies),
            *normalised("deberta.embeddings.LayerNorm", "embeddings/norm", bias=True),
            same("deberta.encoder.rel_embeddings.weight", "encoder/relative_vectors/table"),
        ]
        if stack.learned_positions:
            table.append(same("deberta.embeddings.position_embeddings.weight", "embeddings/position/table"))
        if config.types:
            table.append(same("deberta.embeddings.token_type_embeddings.weight", "embeddings/type/table"))
        if config.embedding_size is not None:
            table += linear("deberta.embeddings.embed_proj", "embeddings/widen", bias=False)
        if positions.norm:
            table += normalised("deberta.encoder.LayerNorm", "encoder/relative_vectors/norm", bias=True)
        return [*table, *in_pattern(_layers(stack), "encoder", stack), *_head(config), *self.heads.entries(config)]


def _layers(stack: StackConfig) -> list[Entry]:
    """Return the entries of the layers, and of the convolution after the first."""
    layer, ours, positions = "deberta.encoder.layer.{layer}", "encoder/layers", stack.disentangled
    products = {
        "attention.self.query_proj": "attention/query",
        "attention.self.key_proj": "attention/key",
        "attention.self.value_proj": "attention/value",
        "attention.output.dense": "attention/out",
        "intermediate.dense": "mlp/up",
        "output.dense": "mlp/down",
    }
    if not positions.shared_projections and positions.content_to_position:
        products["attention.self.pos_key_proj"] = "attention/position_key"
    if not positions.shared_projections and positions.position_to_content:
        products["attention.self.pos_query_proj"] = "attention/position_query"
    table: list[Entry] = []
    for theirs, own in products.items():
        table += linear(f"{layer}.{theirs}", f"{ours}/{own}", bias=stack.biases)
    table += normalised(f"{layer}.attention.output.LayerNorm", f"{ours}/attention_norm", bias=True)
    table += normalised(f"{layer}.output.LayerNorm", f"{ours}/mlp_norm", bias=True)
    convolution = _first_convolution(stack)
    if convolution is not None:
        window = "encoder/first/0/convolution/window"
        table.append(Entry("deberta.encoder.conv.conv.weight", (f"{window}/kernel",), _Windows(convolution.size)))
        table.append(same("deberta.encoder.conv.conv.bias", f"{window}/bias"))
        table += normalised("deberta.encoder.conv.LayerNorm", "encoder/first/0/convolution_norm", bias=True)
    return table


def _head(config: EncoderConfig) -> list[Entry]:
    """Return the entries of a masked-LM head. A checkpoint may have either of its names."""
    entries = head(config, f"{_LEGACY}.transform", "LayerNorm", _LEGACY)
    if not config.tied:
        return entries  # Only the legacy head may be untied.
    return [dataclasses.replace(entry, aliases=(*entry.aliases, _later(entry.theirs))) for entry in entries]


def _later(legacy: str) -> str:
    return legacy.replace(f"{_LEGACY}.transform", _LATER).replace(_LEGACY, _LATER)


def _positions(options: Options, longest: int) -> Disentangled:
    """Read the relative positions. longest: `max_position_embeddings`."""
    if not options.flag("relative_attention", False):
        raise options.refuse("relative_attention", False, "without relative positions, the model would be a BERT")
    names = options.take("pos_att_type", [])
    names = [name.strip() for name in names.lower().split("|")] if isinstance(names, str) else names
    if not isinstance(names, list) or not names or not all(name in tuple(_TERMS) for name in names):
        raise options.refuse("pos_att_type", names, f"expected one or both of {', '.join(_TERMS)}")
    norm = options.take("norm_rel_ebd", "none")
    kinds = {kind.strip() for kind in norm.lower().split("|")} if isinstance(norm, str) else {""}
    if not kinds <= {"layer_norm", "none"}:
        raise options.refuse("norm_rel_ebd", norm, "supported are layer_norm, none")
    buckets, distance = (options.number(name, -1) for name in ("position_buckets", "max_relative_positions"))
    return Disentangled(
        **{term: name in names for name, term in _TERMS.items()},
        buckets=options.size("position_buckets") if buckets > 0 else None,
        max_distance=options.size("max_relative_positions") if distance >= 1 else longest,
        shared_projections=options.flag("share_att_key", False),
        norm="layer_norm" in kinds,
    )


def _convolution(options: Options) -> ConvolutionConfig | None:
    size = options.size("conv_kernel_size", 0, least=0)
    activation = options.take("conv_act", "tanh")
    groups = options.take("conv_groups", 1)
    if not size:
        return None
    if groups != 1:
        raise options.refuse("conv_groups", groups, "a convolution in groups is not supported; only 1 is")
    names = {theirs: ours for ours, theirs in _CONVOLUTION_NAMES.items()}
    if not isinstance(activation, str) or activation not in names:
        raise options.refuse("conv_act", activation, f"supported are {', '.join(names)}")
    return ConvolutionConfig(size=size, activation=cast(ConvolutionActivation, names[activation]))


_CONVOLUTION_NAMES = {"tanh": "tanh", **{name: activation_name(name) for name in ("relu", "gelu", "gelu_tanh", "silu")}}
"""Our name of an activation -> that of `transformers`."""


def _first_convolution(stack: StackConfig) -> ConvolutionConfig | None:
    """Return the convolution of the first layer, or None."""
    return stack.first[0].convolution if stack.first else None


def _pooler(options: Options, width: int, dropout: float, *, used: bool) -> dict[str, Any]:
    """Read the options of the pooler, and return the fields of `EncoderConfig` if it is used."""
    activation = options.take("pooler_hidden_act", "gelu")
    if not used:
        options.free("pooler_dropout", "pooler_hidden_size", "cls_dropout")
        return {}
    options.must("pooler_hidden_size", width, why="a pooler of another width cannot read the layers")
    options.must("pooler_dropout", 0, why="dropout before the pooler is not supported")
    options.must("cls_dropout", dropout, why="the classifier has the rate of hidden_dropout_prob")
    if activation not in get_args(PoolerActivation):
        raise options.refuse("pooler_hidden_act", activation, f"supported are {', '.join(get_args(PoolerActivation))}")
    return {"pooler_activation": activation}


@dataclass(frozen=True)
class _Windows(Operation):
    """The kernel of a convolution over windows of `size` tokens: theirs is [output, input, token], ours [token * input, output]."""

    size: int

    def to_ours(self, theirs: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """Return the matrix that multiplies a window's concatenated vectors."""
        return [theirs.transpose(2, 1, 0).reshape(shapes[0])]

    def to_theirs(self, ours: Sequence[np.ndarray]) -> np.ndarray:
        """Return the kernel with the tokens last."""
        return ours[0].reshape(self.size, -1, ours[0].shape[1]).transpose(2, 1, 0)

    def shape(self, shapes: Sequence[Shape]) -> Shape:
        """Return the shape of the kernel with the tokens last."""
        inputs, outputs = shapes[0]
        return outputs, inputs // self.size, self.size
