"""Conversion of MPNet to and from `transformers` (MPNetForMaskedLM, MPNetModel, and the heads of `bert/heads.py`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, linear, normalised, same
from t2t.models.bert.heads import Heads
from t2t.models.bert.mapping import POOLER, common, common_options, head
from t2t.models.encoder import EncoderConfig
from t2t.models.mpnet.presets import BUCKETS, OFFSET, mpnet
from t2t.nn.model import ModelConfig


class MPNet(Family):
    """MPNet."""

    name = "MPNet"
    model_types = ("mpnet",)
    prefix = "mpnet."
    heads = Heads(
        model="MPNet", pooler="classifier.dense", label="classifier.out_proj", base_pooler="mpnet.pooler.dense"
    )
    left_out: ClassVar[Mapping[str, str]] = {
        r"(mpnet\.)?pooler\.dense\.(weight|bias)": POOLER,
        r"lm_head\.bias": "an untied head uses decoder.bias instead",
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Without the tensors of a masked-LM head, logits are the product with the embeddings."""
        options.must("relative_attention_num_buckets", BUCKETS, why="transformers computes 32 buckets with any value")
        masked_lm = "lm_head.dense.weight" in weights.names
        sizes = common(options)
        return mpnet(
            **{**sizes, "max_length": sizes["max_length"] - OFFSET},
            head_activation="gelu" if masked_lm else None,
            **self.heads.read(options, weights, masked_lm=masked_lm),
        )

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or config.encoder.positions != "relative":
            return None
        stack = config.encoder
        longer = dataclasses.replace(config, encoder=dataclasses.replace(stack, max_length=stack.max_length + OFFSET))
        shared = common_options(longer)
        del shared["type_vocab_size"]
        return {
            "architectures": ["MPNetForMaskedLM" if config.head_transform else "MPNetModel"],
            "model_type": "mpnet",
            **shared,
            "relative_attention_num_buckets": stack.buckets,
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        copies = ("lm_head.decoder.weight",) if config.tied and config.head_transform else ()
        table = [
            same("mpnet.embeddings.word_embeddings.weight", "embeddings/token/table", *copies),
            same("mpnet.embeddings.position_embeddings.weight", "embeddings/position/table"),
            *normalised("mpnet.embeddings.LayerNorm", "embeddings/norm", bias=True),
            same("mpnet.encoder.relative_attention_bias.weight", "encoder/relative_bias/table"),
        ]
        layer, ours = "mpnet.encoder.layer.{layer}", "encoder/layers"
        for theirs, own in (
            ("attention.attn.q", "attention/query"),
            ("attention.attn.k", "attention/key"),
            ("attention.attn.v", "attention/value"),
            ("attention.attn.o", "attention/out"),
            ("intermediate.dense", "mlp/up"),
            ("output.dense", "mlp/down"),
        ):
            table += linear(f"{layer}.{theirs}", f"{ours}/{own}", bias=config.encoder.biases)
        table += normalised(f"{layer}.attention.LayerNorm", f"{ours}/attention_norm", bias=True)
        table += normalised(f"{layer}.output.LayerNorm", f"{ours}/mlp_norm", bias=True)
        return [*table, *head(config, "lm_head", "layer_norm", "lm_head"), *self.heads.entries(config)]
