"""Conversion of the label, tag and span heads of BERT-like models to and from `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from t2t.errors import UserError
from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry, linear
from t2t.models.answer_heads import PoolerActivation
from t2t.models.encoder import EncoderConfig

_HEADS = {"SequenceClassification": "label", "TokenClassification": "tags", "QuestionAnswering": "span"}
_OTHERS = ("MultipleChoice", "NextSentencePrediction")
_SINGLE = "single_label_classification"


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of a family.

    model:      prefix of the names of its classes: "Bert" of BertForSequenceClassification.
    pooler:     name of the dense layer before the text classifier, None if there is none.
    label:      name of the text classifier.
    span:       name of the layer that scores the ends of spans.
    activation: activation between the dense layer and the text classifier.
    kinds:      the heads that `transformers` has.
    """

    model: str
    pooler: str | None
    label: str = "classifier"
    span: str = "qa_outputs"
    activation: PoolerActivation = "tanh"
    kinds: tuple[str, ...] = tuple(_HEADS)

    def read(self, options: Options, weights: Weights, *, masked_lm: bool) -> dict[str, Any]:
        """Return the fields of `EncoderConfig` that select the head. masked_lm: whether there are tensors of a masked-LM head.

        Raises UserError if the head is not supported.
        """
        tied = options.flag("tie_word_embeddings", True) or not masked_lm
        kind = options.architecture.partition("For")[2]
        head_tensors = sorted(name for name in weights.names if name.startswith(("classifier.", "qa_outputs.")))
        if kind in _OTHERS or (kind in _HEADS and kind not in self.kinds):
            raise options.refuse(
                "architectures", options.architecture, f"its head is not supported; supported are {self._known()}"
            )
        if kind not in _HEADS:
            if head_tensors:
                raise UserError(
                    f"{options.where}: architectures is {options.architecture or None!r}, which does not say which head {head_tensors[0]} belongs to."
                    f" Expected one of {self._known()}"
                )
            return {"head_transform": masked_lm, "head_bias": masked_lm, "tied": tied}
        head = _HEADS[kind]
        fields: dict[str, Any] = {"head": head, "head_transform": False, "head_bias": False, "tied": True}
        if head == "span":
            return fields
        labels = _labels(options)
        if head == "tags":
            return {**fields, "labels": labels}
        options.must("problem_type", _SINGLE, why="only a single label for each text is supported")
        if len(labels) == 1:
            raise options.refuse(
                "id2label", options.take("id2label", None), "one label means regression, which is not supported"
            )
        pooler = {} if self.pooler is None else {"pooler": True, "pooler_activation": self.activation}
        return {**fields, "labels": labels, **pooler}

    def options(self, config: EncoderConfig) -> dict[str, Any]:
        """Return the options of config.json that select the head, or {} for a masked-LM head."""
        if config.head == "tokens":
            return {}
        kind = next(kind for kind, head in _HEADS.items() if head == config.head)
        head_options: dict[str, Any] = {"architectures": [f"{self.model}For{kind}"]}
        if config.labels:
            head_options["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
            head_options["label2id"] = {label: i for i, label in enumerate(config.labels)}
        return {**head_options, "problem_type": _SINGLE} if config.head == "label" else head_options

    def entries(self, config: EncoderConfig) -> list[Entry]:
        """Return the entries of the head's tensors, or [] for a masked-LM head."""
        if config.head == "tokens":
            return []
        output = {"label": self.label, "tags": "classifier", "span": self.span}[config.head]
        pooler = linear(self.pooler, "answer/pooler", bias=True) if self.pooler and config.pooler else []
        return [*pooler, *linear(output, "answer/output", bias=True)]

    def _known(self) -> str:
        return ", ".join(f"{self.model}For{kind}" for kind in self.kinds)


def _labels(options: Options) -> tuple[str, ...]:
    """Return the labels in the order of their ids, with the default names of transformers if config.json has none."""
    names = options.take("id2label", None)
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(options.size("num_labels", 2)))
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
        raise options.refuse("id2label", names, "the keys must be consecutive ids that start at 0")
    labels = [names[str(i)] for i in range(len(names))]
    if not all(isinstance(label, str) for label in labels):
        raise options.refuse("id2label", names, "labels must be strings")
    return tuple(labels)
