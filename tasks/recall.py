"""Multi-query associative recall (Arora et al. 2023, "Zoology", https://arxiv.org/abs/2312.04927): does a model find the value that belongs to a key?

A text begins with pairs of a key and a value, one character each. After them, each key comes once more, followed by its value, at a random place among fillers:

    inputs   "a1k7c3"        targets   "k7..c3..a1......"

Only these values are predicted. The metric `token_accuracy` of an evaluation is the share of values that are right. A model that cannot look up a value
guesses one of `VALUES`, or one of the values of the text.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import seqio

from t2t.data.converters import Convert, Example, FeatureConverter
from t2t.data.filling import RowPositions
from t2t.data.kind_converters import DecoderConverter
from t2t.errors import UserError
from t2t.tasks.generated import GeneratedSource
from t2t.tasks.register import add
from t2t.types import Batch
from t2t.vocabularies import Characters

FILLER = "."
KEYS = string.ascii_letters
VALUES = string.digits + string.punctuation.replace(FILLER, "")
VOCABULARY = Characters(characters=FILLER + KEYS + VALUES)
PAIRS, LENGTH = 16, 96
"""Sizes of the built-in task: pairs of a text, and its characters."""
_POWER = 0.01
"""Exponent a of the distances: a query is at place i of the targets with a probability proportional to i ** (a - 1), as in the code that the authors released."""


@dataclass(frozen=True)
class Recall:
    """Draws texts of `length` characters with `pairs` pairs. Raises UserError if there are fewer keys, or if the queries do not fit."""

    pairs: int
    length: int

    def __post_init__(self) -> None:
        if not 1 <= self.pairs <= len(KEYS):
            raise UserError(
                f"pairs {self.pairs} of associative recall: there are {len(KEYS)} keys. Nearest: {min(max(self.pairs, 1), len(KEYS))}."
            )
        if self.length % 2 or self.length < 4 * self.pairs:
            raise UserError(
                f"length {self.length} of associative recall: must be an even number of at least four characters for each of the {self.pairs} pairs."
                f" Nearest: {max(4 * self.pairs, self.length + self.length % 2)}."
            )

    @property
    def lengths(self) -> tuple[int, int]:
        """Characters of the inputs and of the targets."""
        return 2 * self.pairs, self.length - 2 * self.pairs

    def __call__(self, draw: np.random.Generator) -> tuple[str, str]:
        """Return the pairs, and the queries with their values."""
        keys = draw.choice(len(KEYS), size=self.pairs, replace=False)
        values = draw.integers(len(VALUES), size=self.pairs)
        pairs = [KEYS[key] + VALUES[value] for key, value in zip(keys, values, strict=True)]
        room = self.lengths[1] // 2
        chances = np.arange(1.0, room + 1) ** (_POWER - 1)
        places = draw.choice(room, size=self.pairs, replace=False, p=chances / chances.sum())
        queries = [FILLER * 2] * room
        for place, pair in zip(places, pairs, strict=True):
            queries[place] = pair
        return "".join(pairs), "".join(queries)


@dataclass(frozen=True, kw_only=True)
class _Answers(DecoderConverter):
    """Rows of a decoder in which only the values after queries have weight."""

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        batch, positions, given = super()._batch(examples, counts)

        def answers(example: Example) -> np.ndarray:
            asked, answered = example["targets"][::2], example["targets"][1::2]
            weights = np.zeros(len(example["inputs"]) + len(example["targets"]), np.float32)
            # Two fillers are equal, a key and a value never are.
            weights[len(example["inputs"]) + 1 :: 2] = asked[: len(answered)] != answered
            return weights

        weights = positions.scatter([answers(example) for example in examples], np.float32)
        return replace(batch, weights=weights), positions, given


def only_answers(converter: FeatureConverter) -> FeatureConverter:
    """Return the converter that gives weight only to the values after queries. Raises UserError if the model is not a decoder."""
    if not isinstance(converter, DecoderConverter):
        raise UserError(
            f"associative recall is one text, in which tokens are predicted from those before them; a model of kind {converter.kind!r} cannot read it."
            " Nearest: a decoder."
        )
    return _Answers(**{field.name: getattr(converter, field.name) for field in fields(converter)})


def add_recall(name: str, *, pairs: int = PAIRS, length: int = LENGTH, replace: bool = False) -> seqio.Task:
    """Register a task of associative recall, for decoders, and return it. Its inputs have 2 * pairs tokens, its targets the rest.

    Args:
      name: name of the task.
      pairs: pairs of a key and a value in each text, at most 52.
      length: characters of a text, at least four for each pair.
      replace: whether to replace an existing task of this name.

    Raises:
      UserError: the name is taken, or the numbers do not fit.
    """
    recall = Recall(pairs, length)
    convert: Convert = only_answers
    return add(
        name,
        source=GeneratedSource(f"recall {pairs} {length}", recall),
        inputs="inputs",
        targets="targets",
        vocabulary=VOCABULARY,
        objective=(),  # no EOS: queries follow the pairs as one text
        converter=convert,
        replace=replace,
    )


def register() -> None:
    """Register `associative_recall`."""
    add_recall("associative_recall")


register()
