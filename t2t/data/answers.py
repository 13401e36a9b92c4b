"""Targets that are no text, which encoders with another head than the vocabulary's predict: classes of texts or words, places of a span's ends."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Literal

import seqio

from t2t.data.config import Data
from t2t.data.registry import find
from t2t.errors import UserError
from t2t.nn.model import ModelConfig, Output

Of = Literal["text", "word"]

HIDDEN = "<unk>"
"""The target of an example whose answer is not told, T5's for class -1 of TFDS: nothing can be measured on it."""


class Labels(seqio.PassThroughVocabulary):
    """Ids that are classes.

    labels: texts of the classes, in the order of their ids.
    of:     what has a class: each text, or each of its words.
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


class Places(seqio.PassThroughVocabulary):
    """Ids that are places of tokens in their example, from 0."""

    def __init__(self) -> None:
        super().__init__(size=2**31 - 1)

    def __str__(self) -> str:
        return "places in the example, of a span's first and last token"


def output_of(vocabulary: seqio.Vocabulary) -> Output:
    """Return what a model that predicts such targets has to score."""
    if isinstance(vocabulary, Labels):
        return "label" if vocabulary.of == "text" else "tags"
    return "span" if isinstance(vocabulary, Places) else "tokens"


def check_model(data: Data, config: ModelConfig) -> None:
    """Raise UserError where an encoder's logits do not score what the task has as targets, or the model lacks the task's token types."""
    features = find(data.task).output_features
    if config.can("generate") or "targets" not in features:
        return
    vocabulary = features["targets"].vocabulary
    wanted, labels = output_of(vocabulary), getattr(vocabulary, "labels", ())
    options = f"--model.head {wanted}" + (f" --model.labels {shlex.join(labels)}" if labels else "")
    if wanted != config.output:
        raise UserError(
            f"task {data.task!r} is for a model that predicts {_SAID[wanted]}, this one predicts {_SAID[config.output]}"
            f" (model.head {config.output!r}). Nearest: {options}."
        )
    own = config.labels
    if labels and labels != own:
        raise UserError(
            f"task {data.task!r} has the {len(labels)} labels {', '.join(labels)}, the model the {len(own)} labels {', '.join(own)}"
            f" (model.labels). Nearest: {options}."
        )
    types = config.types
    if "types" in features and types < 2:
        raise UserError(
            f"task {data.task!r} gives token types 0 and 1, the model has {types or 'none'} (model.types). Nearest: --model.types 2."
        )


_SAID: dict[Output, str] = {
    "tokens": "tokens of the vocabulary",
    "label": "a label for each text",
    "tags": "a label for each word",
    "span": "the first and last token of a span",
}
