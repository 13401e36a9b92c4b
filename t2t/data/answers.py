"""Targets of encoders that are not text: classes or numbers of texts, classes of words, the first and last position of a span, and which text a token is in."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from typing import Literal

import seqio

from t2t.data.config import Data
from t2t.data.registry import find
from t2t.errors import UserError
from t2t.nn.capabilities import VALUES
from t2t.nn.model import ModelConfig, Output

Of = Literal["text", "word"]

TEXTS = "texts"
"""Feature with the number of texts of an example, in tasks of vectors of texts."""

HIDDEN = "<unk>"
"""The target of an example without a known answer. T5 uses it for class -1 of TFDS. Metrics cannot use such examples."""


class Labels(seqio.PassThroughVocabulary):
    """Class ids.

    labels: class names, in the order of their ids.
    of:     the unit that has a class: the whole text, or each of its words.
    """

    def __init__(self, labels: Sequence[str], *, of: Of) -> None:
        super().__init__(size=len(labels))
        self.labels, self.of = tuple(labels), of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Labels) and (self.labels, self.of) == (other.labels, other.of)

    def __hash__(self) -> int:
        return hash((self.labels, self.of))

    def __str__(self) -> str:
        return f"labels of each {self.of}: {', '.join(self.labels)}"


class Values(seqio.PassThroughVocabulary):
    """Several numbers for each text, in the feature `values`. The ids of the targets have no meaning.

    output: "labels" if a number is 1 for a label that the text has and else 0, or "numbers" if the numbers are to be predicted.
    labels: names of the labels or numbers. A single number needs none.
    """

    def __init__(self, labels: Sequence[str], *, output: Output) -> None:
        assert output in VALUES, output
        super().__init__(size=1)
        self.labels, self.output = tuple(labels), output

    @property
    def count(self) -> int:
        """Number of values of a text."""
        return len(self.labels) or 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Values) and (self.labels, self.output) == (other.labels, other.output)

    def __hash__(self) -> int:
        return hash((self.labels, self.output))

    def __str__(self) -> str:
        what = "any number of labels" if self.output == "labels" else "numbers"
        return f"{what} of each text: {', '.join(self.labels)}" if self.labels else "a number of each text"


class Places(seqio.PassThroughVocabulary):
    """Token positions in an example, from 0."""

    def __init__(self) -> None:
        super().__init__(size=2**31 - 1)

    def __str__(self) -> str:
        return "positions of the first and last token of a span"


class Texts(seqio.PassThroughVocabulary):
    """The number of each token's text in its example, from 0, for tasks of vectors of texts."""

    def __init__(self) -> None:
        super().__init__(size=2**31 - 1)

    def __str__(self) -> str:
        return "numbers of the texts of an example"


def is_text(vocabulary: seqio.Vocabulary) -> bool:
    """Return whether targets with this vocabulary are text."""
    return not isinstance(vocabulary, Labels | Values | Places | Texts)


def output_of(vocabulary: seqio.Vocabulary) -> Output:
    """Return the model output that predicts targets with this vocabulary."""
    if isinstance(vocabulary, Values):
        return vocabulary.output
    if isinstance(vocabulary, Labels):
        return "label" if vocabulary.of == "text" else "tags"
    return "span" if isinstance(vocabulary, Places) else "tokens"


def check_model(data: Data, config: ModelConfig) -> None:
    """Raise UserError if an encoder's output does not match the task's targets, or if the model lacks the task's token types."""
    features = find(data.task).output_features
    if config.can("generate") or "targets" not in features:
        return
    vocabulary = features["targets"].vocabulary
    if isinstance(vocabulary, Texts):
        if not config.can("embed"):
            raise UserError(
                f"task {data.task!r} needs a model that computes vectors of texts; {type(config).__name__} does not. Nearest: an encoder."
            )
        return
    wanted, labels = output_of(vocabulary), getattr(vocabulary, "labels", ())
    options = f"--model.head {wanted}" + (f" --model.labels {shlex.join(labels)}" if labels else "")
    if wanted != config.output:
        raise UserError(
            f"task {data.task!r} needs a model that predicts {_DESCRIPTIONS[wanted]}, this one predicts {_DESCRIPTIONS[config.output]}"
            f" (model.head {config.output!r}). Nearest: {options}."
        )
    own = config.labels
    if isinstance(vocabulary, Values) and wanted == "numbers":
        if config.num_labels != vocabulary.count:
            raise UserError(
                f"task {data.task!r} has {vocabulary.count} numbers for each text, the model predicts {config.num_labels} (model.labels). Nearest: {options}."
            )
    elif labels and labels != own:
        raise UserError(
            f"task {data.task!r} has {len(labels)} labels: {', '.join(labels)}; the model has {len(own)} labels: {', '.join(own)}"
            f" (model.labels). Nearest: {options}."
        )
    types = config.types
    if "types" in features and types < 2:
        raise UserError(
            f"task {data.task!r} gives token types 0 and 1, the model has {types or 'no'} token types (model.types). Nearest: --model.types 2."
        )


def check_objective(data: Data, name: str, features: Collection[str]) -> None:
    """Raise UserError if the training task is of vectors of texts, but the objective predicts targets.

    name: the objective's class. features: the further features of the task that it needs.
    """
    offered = find(data.task).output_features
    vectors = "targets" in offered and isinstance(offered["targets"].vocabulary, Texts)
    if vectors and TEXTS not in features:
        raise UserError(
            f"task {data.task!r} trains vectors of texts, but objective {name} (experiment.objective) predicts targets. Nearest: t2t.objectives.Contrastive."
        )


_DESCRIPTIONS: dict[Output, str] = {
    "tokens": "tokens of the vocabulary",
    "label": "a label for each text",
    "labels": "any number of labels for each text",
    "numbers": "numbers for each text",
    "tags": "a label for each word",
    "span": "the first and last token of a span",
    "vectors": "vectors of texts",
}
