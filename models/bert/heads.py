"""Conversion of the heads of BERT-like models to and from `transformers`: labels, numbers, tags, spans, poolers and classifiers of pairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from t2t.errors import UserError, nearest
from t2t.export.family import Options, Weights
from t2t.export.mapping import Entry, actual, linear
from t2t.models.answer_heads import PoolerActivation
from t2t.models.encoder import EncoderConfig
from t2t.nn.capabilities import OF_TEXT, Output

TEXT = "SequenceClassification"
_HEADS: dict[str, Output] = {TEXT: "label", "TokenClassification": "tags", "QuestionAnswering": "span"}
_PAIR = "NextSentencePrediction"
_OTHERS = ("MultipleChoice", _PAIR)
_PROBLEMS: dict[str, Output] = {
    "single_label_classification": "label",
    "multi_label_classification": "labels",
    "regression": "numbers",
}
"""`problem_type` of a text classifier -> our head."""
PAIR_LABELS = ("isNext", "notNext")
"""Labels of a classifier of pairs: the second text follows the first in its document, or is from another place (Devlin et al. 2019, section 3.1)."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The heads of a family.

    model:       prefix of the names of its classes: "Bert" of BertForSequenceClassification.
    pooler:      name of the dense layer before the text classifier, None if there is none.
    label:       name of the text classifier.
    span:        name of the layer that scores the ends of spans.
    activation:  activation between the dense layer and the text classifier.
    kinds:       the heads that `transformers` has.
    base_pooler: name of the pooler of the base model, None if there is none.
    pair:        name of the classifier of pairs of the model that was pretrained with one, None if there is none.
    pair_alone:  whether `transformers` has a class of that classifier without the masked-LM head.
    """

    model: str
    pooler: str | None
    label: str = "classifier"
    span: str = "qa_outputs"
    activation: PoolerActivation = "tanh"
    kinds: tuple[str, ...] = tuple(_HEADS)
    base_pooler: str | None = None
    pair: str | None = None
    pair_alone: bool = False

    def read(self, options: Options, weights: Weights, *, masked_lm: bool) -> dict[str, Any]:
        """Return the fields of `EncoderConfig` that select the head. masked_lm: whether there are tensors of a masked-LM head.

        Raises UserError if the head is not supported.
        """
        tied = options.flag("tie_word_embeddings", True) or not masked_lm
        kind = options.architecture.partition("For")[2]
        head_tensors = sorted(name for name in weights.names if name.startswith(("classifier.", "qa_outputs.")))
        pair = kind == _PAIR and self.pair_alone
        if not pair and (kind in _OTHERS or (kind in _HEADS and kind not in self.kinds)):
            raise options.refuse(
                "architectures", options.architecture, f"its head is not supported; supported are {self._known()}"
            )
        pooler = {} if self.pooler is None else {"pooler": True, "pooler_activation": self.activation}
        fields: dict[str, Any] = {"head_transform": False, "head_bias": False, "tied": True}
        if pair:
            return {**fields, "head": "label", "labels": PAIR_LABELS, **pooler}
        if kind not in _HEADS:
            if head_tensors:
                raise UserError(
                    f"{options.where}: architectures is {options.architecture or None!r}, which does not say which head {head_tensors[0]} belongs to."
                    f" Expected one of {self._known()}"
                )
            return {"head_transform": masked_lm, "head_bias": masked_lm, "tied": tied, **self._kept(weights.names)}
        head = _HEADS[kind]
        if head == "span":
            return {**fields, "head": head}
        labels = _labels(options)
        if head == "tags":
            return {**fields, "head": head, "labels": labels}
        head = _problem(options, labels)
        if head == "numbers" and labels == _names(1):
            labels = ()
        return {**fields, "head": head, "labels": labels, **pooler}

    def options(self, config: EncoderConfig) -> dict[str, Any]:
        """Return the options of config.json that select the head, or {} for a masked-LM head without a classifier of pairs."""
        if config.head == "tokens":
            return {"architectures": [f"{self.model}ForPreTraining"]} if config.kept_pair_classifier else {}
        if config.head == "vectors":
            return {"architectures": [f"{self.model}Model"]}
        kind = TEXT if config.head in OF_TEXT else next(kind for kind, head in _HEADS.items() if head == config.head)
        pair = self._is_pair(config)
        head_options: dict[str, Any] = {"architectures": [f"{self.model}For{_PAIR if pair else kind}"]}
        if config.num_labels:
            labels = config.labels or _names(config.num_labels)
            head_options["id2label"] = {str(i): label for i, label in enumerate(labels)}
            head_options["label2id"] = {label: i for i, label in enumerate(labels)}
        if config.head in OF_TEXT and not pair:
            head_options["problem_type"] = next(name for name, head in _PROBLEMS.items() if head == config.head)
        return head_options

    def entries(self, config: EncoderConfig) -> list[Entry]:
        """Return the entries of the tensors of the head, or of those that a model without such a head keeps for others."""
        if config.head in ("tokens", "vectors"):
            pooler = self.base_pooler if config.kept_pooler else None
            pair = self.pair if config.kept_pair_classifier and config.head == "tokens" else None
            kept = ((pooler, "answer/pooler"), (pair, "pair_classifier"))
            return [entry for theirs, own in kept if theirs for entry in linear(theirs, own, bias=True)]
        output = {"tags": "classifier", "span": self.span}.get(config.head, self.label)
        if self._is_pair(config) and self.pair:
            output = self.pair
        dense = linear(self.pooler, "answer/pooler", bias=True) if self.pooler and config.pooler else []
        return [*dense, *linear(output, "answer/output", bias=True)]

    def _kept(self, names: Collection[str]) -> dict[str, bool]:
        """Return the fields for the tensors that a masked-LM head does not use."""
        prefix = f"{(self.base_pooler or '').partition('.')[0]}."  # a checkpoint of the base model does not have it

        def has(layer: str | None) -> bool:
            return layer is not None and all(actual(f"{layer}.{part}", names, prefix) for part in ("weight", "bias"))

        pooler = has(self.base_pooler)
        return {"kept_pooler": pooler, "kept_pair_classifier": pooler and has(self.pair)}

    def _is_pair(self, config: EncoderConfig) -> bool:
        """Return whether the head is that of next-sentence prediction."""
        return self.pair_alone and config.head == "label" and config.labels == PAIR_LABELS

    def _known(self) -> str:
        kinds = (*self.kinds, _PAIR) if self.pair_alone else self.kinds
        return ", ".join(f"{self.model}For{kind}" for kind in kinds)


def _problem(options: Options, labels: tuple[str, ...]) -> Output:
    """Return the head of a text classifier. Without a `problem_type`, one label means regression, as in `transformers`.

    Raises UserError for another problem, or for one label where one of several is to be predicted.
    """
    default = "regression" if len(labels) == 1 else "single_label_classification"
    problem = options.take("problem_type", default)
    if problem not in _PROBLEMS:
        raise options.refuse(
            "problem_type", problem, f"supported are {', '.join(_PROBLEMS)}.{nearest(str(problem), _PROBLEMS)}"
        )
    if problem == "single_label_classification" and len(labels) == 1:
        raise options.refuse(
            "problem_type", problem, "there is only one label. Nearest: regression, multi_label_classification"
        )
    return _PROBLEMS[problem]


def _names(count: int) -> tuple[str, ...]:
    """Return the names that `transformers` gives to labels without names."""
    return tuple(f"LABEL_{i}" for i in range(count))


def _labels(options: Options) -> tuple[str, ...]:
    """Return the labels in the order of their ids, with the default names of transformers if config.json has none."""
    names = options.take("id2label", None)
    if names is None:
        return _names(options.size("num_labels", 2))
    if not isinstance(names, dict) or set(names) != {str(i) for i in range(len(names))}:
        raise options.refuse("id2label", names, "the keys must be consecutive ids that start at 0")
    labels = [names[str(i)] for i in range(len(names))]
    if not all(isinstance(label, str) for label in labels):
        raise options.refuse("id2label", names, "labels must be strings")
    return tuple(labels)
