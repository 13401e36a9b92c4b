"""Conversion of the text models of T5Gemma 2 to and from `transformers` (T5Gemma2ForConditionalGeneration)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, same
from t2t.models.config import StackConfig
from t2t.models.encoder_decoder import EncoderDecoderConfig
from t2t.models.gemma.mapping import bound, gemma3_fields, layer_entries, rotaries_options, stack_options
from t2t.models.gemma.presets import layers
from t2t.models.t5gemma.mapping import NORMS, inner
from t2t.nn.model import ModelConfig

_OF_IMAGES = ("vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index", "image_token_index")
"""Options that do not change the text model."""
_NO_IMAGES = {
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1,
        "intermediate_size": 1,
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "image_size": 1,
        "patch_size": 1,
        "vision_use_head": False,
    },
    "mm_tokens_per_image": 1,
    "boi_token_index": -1,
    "eoi_token_index": -1,
    "image_token_index": -1,
}
"""The smallest encoder of images. `transformers` always makes one."""


class T5Gemma2(Family):
    """The text models of T5Gemma 2. Their encoder of images is not read."""

    name = "T5Gemma 2"
    model_types = ("t5gemma2",)
    prefix = "model."
    left_out: ClassVar[Mapping[str, str]] = {
        r"(model\.)?encoder\.(vision_tower|multi_modal_projector)\..*": "the encoder of images",
        r"(model\.)?(encoder|decoder)\.(text_model\.)?embed_tokens\.eoi_embedding": "the embedding of the end of an image",
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration."""
        options.free("classifier_dropout_rate", "initializer_range", *_OF_IMAGES)
        options.must("is_encoder_decoder", True, why="an encoder alone is not supported")
        options.must("tie_word_embeddings", True, why="encoder, decoder and head have the same embeddings")
        around, decoder = inner(options, "encoder"), inner(options, "decoder")
        around.free("initializer_range", "vocab_size", *_OF_IMAGES)
        encoder = inner(around, "text_config")
        vocab_size = decoder.size("vocab_size", 262_208)
        for own in (options, encoder):
            own.must("vocab_size", vocab_size, why="encoder and decoder must have the same vocabulary")
        encoder.free("final_logit_softcapping")
        stacks = [StackConfig(**{**_layers(), **gemma3_fields(own)}) for own in (encoder, decoder)]
        config = EncoderDecoderConfig(
            vocab_size=vocab_size,
            encoder=replace(stacks[0], exact_window=True),
            decoder=stacks[1],
            merged_attention=True,
            embedding_scale=stacks[1].d_model ** 0.5,
            final_softcap=bound(decoder, "final_logit_softcapping", None),
            dropout=options.number("dropout_rate", 0.0),
            attention_dropout=options.number("attention_dropout", 0.0),
        )
        for own in (around, encoder, decoder):
            own.finish()
        return config

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderDecoderConfig) or not config.merged_attention:
            return None
        return {
            "architectures": ["T5Gemma2ForConditionalGeneration"],
            "model_type": "t5gemma2",
            "is_encoder_decoder": True,
            "vocab_size": config.vocab_size,
            "encoder": {
                "model_type": "t5gemma2_encoder",
                "text_config": {"model_type": "t5gemma2_text", **_options(config, config.encoder)},
                **_NO_IMAGES,
            },
            "decoder": {"model_type": "t5gemma2_decoder", **_options(config, config.decoder)},
            "eoi_token_index": -1,
            "image_token_index": -1,
            "dropout_rate": config.dropout,
            "attention_dropout": config.attention_rate,
            "tie_word_embeddings": config.tied,
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors. Those of the encoder may have the names that they have in `transformers` 5, with "text_model."."""
        assert isinstance(config, EncoderDecoderConfig)
        attention, encoder = {"attention": "self_attn"}, "model.encoder."
        copies = ("model.decoder.embed_tokens.weight", "lm_head.out_proj.weight")
        table = [
            same(f"{encoder}embed_tokens.weight", "embeddings/token/table", *copies),
            *layer_entries(config.encoder, "encoder", encoder, attention, NORMS),
            *layer_entries(config.decoder, "decoder", "model.decoder.", attention, NORMS),
        ]
        return [
            replace(entry, aliases=(*entry.aliases, entry.theirs.replace(encoder, f"{encoder}text_model.")))
            if entry.theirs.startswith(encoder)
            else entry
            for entry in table
        ]


def _layers() -> dict[str, Any]:
    """Return the fields of a stack that are the same in all sizes."""
    return {**layers(), "mlp_dropout": True, "final_dropout": True}


def _options(config: EncoderDecoderConfig, stack: StackConfig) -> dict[str, Any]:
    """Return the options of config.json for `gemma3_fields`."""
    return {
        "vocab_size": config.vocab_size,
        **stack_options(stack),
        **rotaries_options(stack),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": config.final_softcap,
        "dropout_rate": config.dropout,
        "attention_dropout": config.attention_rate,
    }
