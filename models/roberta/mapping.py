"""Conversion of RoBERTa to and from `transformers` (RobertaForMaskedLM; XLM-RoBERTa has the same tensors)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry
from t2t.models.bert.heads import Heads
from t2t.models.bert.mapping import POOLER, body, common, common_options, head
from t2t.models.bert.presets import bert
from t2t.models.encoder import EncoderConfig
from t2t.nn.model import ModelConfig


class Roberta(Family):
    """RoBERTa."""

    name = "RoBERTa"
    model_types = ("roberta", "xlm-roberta")
    prefix = "roberta."
    heads = Heads(
        model="Roberta", pooler="classifier.dense", label="classifier.out_proj", base_pooler="roberta.pooler.dense"
    )
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
            **self.heads.read(options, weights, masked_lm=masked_lm),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or not config.encoder.position_offset:
            return None
        stack = config.encoder
        longer = dataclasses.replace(
            config, encoder=dataclasses.replace(stack, max_length=stack.max_length + stack.position_offset)
        )
        return {
            "architectures": ["RobertaForMaskedLM" if config.head_transform else "RobertaModel"],
            "model_type": "roberta",
            **common_options(longer),
            "pad_token_id": stack.position_offset - 1,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        words = head(config, "lm_head", "layer_norm", "lm_head")
        return [*body(config, "roberta.", "lm_head.decoder.weight"), *words, *self.heads.entries(config)]
