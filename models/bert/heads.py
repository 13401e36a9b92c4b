"""Heads for labels, tags and spans of BERT and its kin, between this stack and `transformers`."""

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
    """A family's heads.

    model:      what its classes begin with: "Bert" of BertForSequenceClassification.
    pooler:     the tensors of the dense layer before the classifier of texts.
    label:      those of that classifier.
    activation: between the two.
    """

    model: str
    pooler: str
    label: str = "classifier"
    activation: PoolerActivation = "tanh"

    def read(self, options: Options, weights: Weights) -> dict[str, Any]:
        """Return the fields of `EncoderConfig` that say which head there is, none for that of words.

        Raises UserError for a head that is not here.
        """
        kind = options.architecture.partition("For")[2]
        there = sorted(name for name in weights.names if name.startswith(("classifier.", "qa_outputs.")))
        if kind in _OTHERS:
            raise options.refuse("architectures", options.architecture, f"its head is not here; {self._known()} are")
        if kind not in _HEADS:
            if there:
                raise UserError(
                    f"{options.where}: architectures is {options.architecture or None!r}, which does not say what {there[0]} is; {self._known()} do"
                )
            return {}
        head = _HEADS[kind]
        made: dict[str, Any] = {"head": head, "head_transform": False, "head_bias": False, "tied": True}
        if head == "span":
            return made
        labels = _labels(options)
        if head == "tags":
            return {**made, "labels": labels}
        options.must("problem_type", _SINGLE, why="one label for each text is what the head gives")
        if len(labels) == 1:
            raise options.refuse(
                "id2label", options.take("id2label", None), "one label is a regression, which is not here"
            )
        return {**made, "labels": labels, "pooler": True, "pooler_activation": self.activation}

    def options(self, config: EncoderConfig) -> dict[str, Any]:
        """Return the options of config.json that say which head there is; none for that of words."""
        if config.head == "tokens":
            return {}
        kind = next(kind for kind, head in _HEADS.items() if head == config.head)
        made: dict[str, Any] = {"architectures": [f"{self.model}For{kind}"]}
        if config.labels:
            made["id2label"] = {str(i): label for i, label in enumerate(config.labels)}
            made["label2id"] = {label: i for i, label in enumerate(config.labels)}
        return {**made, "problem_type": _SINGLE} if config.head == "label" else made

    def entries(self, config: EncoderConfig) -> list[Entry]:
        """Return the head's part of the table; none for that of words."""
        if config.head == "tokens":
            return []
        output = {"label": self.label, "tags": "classifier", "span": "qa_outputs"}[config.head]
        pooler = linear(self.pooler, "answer/pooler", bias=True) if config.pooler else []
        return [*pooler, *linear(output, "answer/output", bias=True)]

    def _known(self) -> str:
        return ", ".join(f"{self.model}For{kind}" for kind in _HEADS)


def _labels(options: Options) -> tuple[str, ...]:
    """Return the labels in the order of their ids, as transformers would name them where nothing does."""
    names = options.take("id2label", None)
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(options.size("num_labels", 2)))
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
        raise options.refuse("id2label", names, "the keys must be the ids from 0 on")
    labels = [names[str(i)] for i in range(len(names))]
    if not all(isinstance(label, str) for label in labels):
        raise options.refuse("id2label", names, "labels must be texts")
    return tuple(labels)
