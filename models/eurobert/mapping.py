"""Conversion of EuroBERT to and from `transformers` (EuroBertForMaskedLM, EuroBertModel, and heads for labels and tags)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, Transposed, same
from t2t.models.bert.heads import Heads
from t2t.models.encoder import EncoderConfig
from t2t.models.eurobert.presets import eurobert
from t2t.models.llama.mapping import decoder_fields, stack_entries, stack_options
from t2t.nn.capabilities import OF_TEXT
from t2t.nn.model import ModelConfig

_POOLING: Mapping[str, str] = {"late": "mean_scores", "bos": "first", "mean": "mean"}


class EuroBert(Family):
    """EuroBERT: the layers of LLaMA in an encoder."""

    name = "EuroBERT"
    model_types = ("eurobert",)
    prefix = "model."
    heads = Heads(
        model="EuroBert", pooler="dense", activation="gelu", kinds=("SequenceClassification", "TokenClassification")
    )

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration. Without the tensors of a masked-LM head, logits are the product with the embeddings."""
        # The code that came with the published files read these; `transformers` does not.
        options.free("auto_map", "bos_token", "eos_token", "pad_token", "mask_token")
        options.must("is_decoder", False, why="an encoder is expected")
        options.must("hidden_dropout", 0.0, why="the places of dropout differ here")
        fields = {
            **decoder_fields(options, max_length=8192, norm_epsilon=1e-5),
            "attention_biases": options.flag("attention_bias", False),
            "biases": options.flag("mlp_bias", False),
        }
        pooling = options.take("classifier_pooling", options.take("clf_pooling", "late"))
        if pooling not in _POOLING:
            raise options.refuse("classifier_pooling", pooling, f"supported are {', '.join(_POOLING)}")
        head = self.heads.read(options, weights, masked_lm=False)
        if "head" not in head:
            masked_lm = not {"lm_head.weight", "lm_head.bias"}.isdisjoint(weights.names)
            # The head has a bias if the feed-forward layers have biases.
            head = {"tied": fields["tied"] or not masked_lm, "head_bias": masked_lm and fields["biases"]}
        elif head["head"] in OF_TEXT:
            head["pooling"] = _POOLING[pooling]
        return eurobert(**{**fields, **head})

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family."""
        if not isinstance(config, EncoderConfig) or config.encoder.positions != "rotary":
            return None
        stack = config.encoder
        if stack.norm != "rms":
            return None
        headless = stack.biases and not config.head_bias
        return {
            "architectures": ["EuroBertModel" if headless else "EuroBertForMaskedLM"],
            "model_type": "eurobert",
            **stack_options(config, stack),
            "attention_bias": stack.has_attention_biases,
            "mlp_bias": stack.biases,
            "classifier_pooling": next(
                theirs for theirs, ours in _POOLING.items() if config.head not in OF_TEXT or ours == config.pooling
            ),
            **self.heads.options(config),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        tokens = config.head == "tokens"
        copies = ("lm_head.weight",) if config.tied and tokens else ()
        table = [
            same("model.embed_tokens.weight", "embeddings/token/table", *copies),
            *stack_entries(config.encoder, "encoder"),
            *self.heads.entries(config),
        ]
        if tokens and config.head_bias:
            table.append(same("lm_head.bias", "lm_head/bias"))
        if tokens and not config.tied:
            table.append(Entry("lm_head.weight", ("lm_head/kernel",), Transposed()))
        return table
