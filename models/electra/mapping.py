"""Conversion of ELECTRA's halves to and from `transformers`: ElectraForPreTraining, ElectraForMaskedLM, and the heads of `bert/heads.py`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from t2t.export.family import Family, Options, Weights
from t2t.export.mapping import Entry, Transposed, linear, normalised, same
from t2t.models.answer_heads import PoolerActivation
from t2t.models.bert.heads import Heads
from t2t.models.bert.mapping import body, common, common_options
from t2t.models.bert.presets import bert
from t2t.models.electra.config import DISCRIMINATOR
from t2t.models.encoder import EncoderConfig
from t2t.nn.capabilities import OF_TEXT
from t2t.nn.model import ModelConfig

_DETECTOR = "discriminator_predictions.dense.weight"


class Electra(Family):
    """A half of an ELECTRA: the discriminator, which tags each token as original or replaced, or the generator, a masked language model."""

    name = "ELECTRA"
    model_types = ("electra",)
    prefix = "electra."
    heads = Heads(model="Electra", pooler="classifier.dense", label="classifier.out_proj", activation="gelu")
    left_out: ClassVar[Mapping[str, str]] = {
        r"discriminator_predictions\..*": "the discriminator's head, which only detects replaced tokens"
    }

    def config(self, options: Options, weights: Weights) -> ModelConfig:
        """Return the configuration of an encoder."""
        options.must("position_embedding_type", "absolute", why="relative positions of BERT are not supported")
        sizes, width = common(options), options.size("embedding_size", 128)
        fields = {
            **sizes,
            "types": options.size("type_vocab_size", 2),
            "embedding_size": None if width == sizes["d_model"] else width,
        }
        if _DETECTOR in weights.names and options.architecture.partition("For")[2] in ("", "PreTraining"):
            return bert(**fields, **self._detector(options, sizes["activation"]))
        masked_lm = "generator_predictions.dense.weight" in weights.names
        head = self.heads.read(options, weights, masked_lm=masked_lm)
        if fields["embedding_size"] is not None and not masked_lm and "head" not in head:
            head = {**head, "head": "vectors"}  # the embeddings are too narrow to compute logits from the outputs
        return bert(**fields, head_activation="gelu" if masked_lm else None, **head)

    def _detector(self, options: Options, activation: str) -> dict[str, Any]:
        if activation not in get_args(PoolerActivation):
            raise options.refuse(
                "hidden_act",
                activation,
                f"the discriminator's head supports {', '.join(get_args(PoolerActivation))}",
            )
        options.flag("tie_word_embeddings", True)
        return {**DISCRIMINATOR, "pooler_activation": activation, "head_transform": False, "head_bias": False}

    def options(self, config: ModelConfig) -> dict[str, Any] | None:
        """Return the options of config.json, or None if the model is not of this family. Models that are a BERT too are exported as a BERT."""
        if not isinstance(config, EncoderConfig) or not config.types or config.encoder.groups is not None:
            return None
        own_head = config.reference_label or (config.head in OF_TEXT and config.pooler_activation == "gelu")
        if config.embedding_size is None and not own_head:
            return None
        architecture = "ElectraForMaskedLM" if config.head_transform else "ElectraModel"
        return {
            "architectures": ["ElectraForPreTraining" if config.reference_label else architecture],
            "model_type": "electra",
            **common_options(config),
            "embedding_size": config.embedding_size or config.encoder.d_model,
            **({} if config.reference_label else self.heads.options(config)),
        }

    def entries(self, config: ModelConfig) -> list[Entry]:
        """Return the entries of all tensors."""
        assert isinstance(config, EncoderConfig)
        table = body(config, "electra.", "generator_lm_head.weight")
        if config.embedding_size is not None:
            table += linear("electra.embeddings_project", "embeddings/widen", bias=True)
        if config.reference_label:
            table += linear("discriminator_predictions.dense", "answer/pooler", bias=True)
            return [*table, *linear("discriminator_predictions.dense_prediction", "answer/output", bias=True)]
        if config.head_transform and config.head == "tokens":
            table += linear("generator_predictions.dense", "transform/dense", bias=True)
            table += normalised("generator_predictions.LayerNorm", "transform/norm", bias=True)
            table.append(same("generator_lm_head.bias", "lm_head/bias"))
            if not config.tied:
                table.append(Entry("generator_lm_head.weight", ("lm_head/kernel",), Transposed()))
        return [*table, *self.heads.entries(config)]
