"""Conversion of RoBERTa, XLM-RoBERTa and XLM-RoBERTa-XL to and from `transformers`, with the heads of `bert/heads.py`.

XLM-RoBERTa has the tensors of RoBERTa and is exported as RoBERTa, which computes the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, normalised
from t2t.models.bert.heads import Heads
from t2t.models.bert.mapping import POOLER, body, common, common_options, head
from t2t.models.bert.presets import bert
from t2t.models.encoder import EncoderConfig
from t2t.models.roberta.presets import PRE_NORM
from t2t.nn.model import ModelConfig


class Roberta(Family):
    """RoBERTa and XLM-RoBERTa."""

    name = "RoBERTa"
    model_types: ClassVar[tuple[str, ...]] = ("roberta", "xlm-roberta")
    prefix = "roberta."
    heads = Heads(
        model="Roberta", pooler="classifier.dense", label="classifier.out_proj", base_pooler="roberta.pooler.dense"
    )
    fields: ClassVar[Mapping[str, Any]] = {}
    """The fields that differ from those of RoBERTa."""
    left_out: ClassVar[Mapping[str, str]] = {
        r"lm_head\.bias": "an untied head uses decoder.bias instead",
        r"(roberta\.)?pooler\.dense\.(weight|bias)": POOLER,
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Positions start after the padding id."""
        options.must("position_embedding_type", "absolute", why="relative positions of BERT are not supported")
        masked_lm = "lm_head.dense.weight" in weights.names
        offset = options.size("pad_token_id", 1, least=0) + 1
        sizes = common(options)
        return bert(
            **{**sizes, "max_length": sizes["max_length"] - offset},
            position_offset=offset,
            types=options.size("type_vocab_size", 2),
            head_activation="gelu" if masked_lm else None,
            **self.fields,
            **self.heads.read(options, weights, masked_lm=masked_lm),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or not config.encoder.position_offset:
            return None
        stack = config.encoder
        if stack.norm_place != self.fields.get("norm_place", "post"):
            return None
        longer = dataclasses.replace(
            config, encoder=dataclasses.replace(stack, max_length=stack.max_length + stack.position_offset)
        )
        return {
            "architectures": [f"{self.heads.model}{'ForMaskedLM' if config.head_transform else 'Model'}"],
            "model_type": self.model_types[0],
            **common_options(longer),
            "pad_token_id": stack.position_offset - 1,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        words = head(config, "lm_head", "layer_norm", "lm_head")
        return [*self.body(config), *words, *self.heads.entries(config)]

    def body(self, config: EncoderConfig) -> list[Entry]:
        """Return the entries of the embeddings and blocks."""
        return body(config, "roberta.", "lm_head.decoder.weight")


_LAYER = "roberta.encoder.layer.{layer}"


class XLMRobertaXL(Roberta):
    """XLM-RoBERTa-XL and -XXL."""

    name = "XLM-RoBERTa-XL"
    model_types: ClassVar[tuple[str, ...]] = ("xlm-roberta-xl",)
    heads = dataclasses.replace(Roberta.heads, model="XLMRobertaXL")
    fields: ClassVar[Mapping[str, Any]] = PRE_NORM

    def body(self, config: EncoderConfig) -> list[Entry]:
        """Return the entries of the embeddings and blocks: norms before the sublayers, and one after all layers."""
        moved = {
            f"{_LAYER}.attention.output.LayerNorm": f"{_LAYER}.attention.self_attn_layer_norm",
            f"{_LAYER}.output.LayerNorm": f"{_LAYER}.LayerNorm",
        }
        table = []
        for entry in super().body(config):
            owner, _, part = entry.theirs.rpartition(".")
            if owner != "roberta.embeddings.LayerNorm":
                table.append(dataclasses.replace(entry, theirs=f"{moved.get(owner, owner)}.{part}"))
        return [*table, *normalised("roberta.encoder.LayerNorm", "encoder/final_norm", bias=True)]
