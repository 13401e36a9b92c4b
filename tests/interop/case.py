"""A small configuration of a model in `transformers`."""

from __future__ import annotations

import dataclasses
from typing import Any

VOCAB = 96
LABELS = ("no", "yes", "perhaps")
HEADS = {"SequenceClassification": "label", "TokenClassification": "tags", "QuestionAnswering": "span"}
PROBLEMS = {"multi_label_classification": "labels", "regression": "numbers"}
OF_TEXT = ("label", "labels", "numbers")
"""Outputs for a whole text."""
DETECTOR = "replaced"
"""Output of ELECTRA's discriminator in transformers: one logit for each token. Here it tags tokens, and the logit is the score of the second tag."""
T5 = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 3}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 12}
"""Sizes of T5 and its encoder."""
LLAMA = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA |= {"intermediate_size": 48, "max_position_embeddings": 64, "num_key_value_heads": 2}
"""Sizes of LLaMA and of the families that are like it."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration of `transformers`: its config class, its model class, and the options that differ from the defaults.

    exported: `model_type` of the export, if it is another family, which computes the same.
    rate: learning rate of the compared trainings.
    """

    name: str
    family: str
    config: str
    model: str
    options: dict[str, Any]
    exported: str = ""
    rate: float = 3e-4

    @property
    def kind(self) -> str:
        """Architecture of the model."""
        if self.model.endswith(("ForConditionalGeneration", "MTModel")):
            return "encoder_decoder"
        return "decoder" if self.model.endswith(("ForCausalLM", "LMHeadModel")) else "encoder"

    @property
    def output(self) -> str:
        """Output of the head. A model that was pretrained with pairs has the output of its masked-LM head, and a base model that of one tied to its embeddings.

        The embeddings of ALBERT and ELECTRA are too narrow for that: their base models compute vectors.
        """
        if self.base and self.options.get("embedding_size", 32) < 32:
            return "vectors"
        detector = {"PreTraining": DETECTOR} if self.family == "ELECTRA" else {}
        kinds = {**HEADS, "NextSentencePrediction": "label", **detector}
        return PROBLEMS.get(self.options.get("problem_type", ""), kinds.get(self.model.partition("For")[2], "tokens"))

    @property
    def base(self) -> bool:
        """Whether the model has no head. Its logits are then the product with the embeddings."""
        return self.kind == "encoder" and self.model.endswith("Model")

    @property
    def paired(self) -> bool:
        """Whether the model has a masked-LM head and a classifier of pairs."""
        return self.model.endswith("ForPreTraining") and self.output != DETECTOR

    @property
    def labels(self) -> int:
        """Number of labels of the head, or of dimensions of a vector."""
        if self.output == "vectors":
            return 32
        if self.output == DETECTOR or self.model.endswith("NextSentencePrediction"):
            return 2
        return len(self.options.get("id2label", LABELS))


def case(family: str, name: str, config: str, model: str, base: dict[str, Any], **options: Any) -> Case:
    """Return the case "FAMILY NAME" with the options of `base` and `options`."""
    return Case(f"{family} {name}", family, config, model, {**base, **options})
