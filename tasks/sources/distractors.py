"""Multiple choice from pairs of texts: the answers of other examples are the wrong choices."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t2t.errors import UserError, nearest
from t2t.tasks.sources.blocks import BlockSource

LETTERS = "abcdefgh"
_BLOCK = 256


class DistractorSource(BlockSource):
    """Examples of another source with their own answer and wrong answers from neighbouring examples.

    origin:  source of the examples.
    answer:  its field that holds the answer.
    choices: number of choices, 2 to 8.
    window:  number of examples before and after, in the same split, from which wrong answers are drawn. It doubles until there are enough
             different answers.
    longest: field -> maximum number of characters, for all fields to keep. An example that exceeds one is dropped.

    An example has the fields of `longest`; a field `choice_a`, `choice_b`, ... for each choice; `right`, the index of the right choice; and
    `candidate` with `fits`: the right answer and 1, or a wrong answer and 0. A hash of the example and its position in the split seeds
    all draws.
    """

    def __init__(
        self, origin: BlockSource, *, answer: str, longest: Mapping[str, int], choices: int = 4, window: int = 16
    ) -> None:
        super().__init__(splits=list(origin.splits))
        if not 2 <= choices <= len(LETTERS):
            raise UserError(f"choices={choices} of {origin}: must be 2 to {len(LETTERS)}.")
        if window < 1:
            raise UserError(f"window={window} of {origin}: must be 1 or more.")
        if answer not in longest:
            raise UserError(f"answer {answer!r} of {origin}: is not a key of `longest`.{nearest(answer, longest)}")
        self.origin, self.answer, self.longest = origin, answer, dict(longest)
        self.choices, self.window = choices, window
        self._kept: dict[str, list[Mapping[str, Any]]] = {}

    def __str__(self) -> str:
        return f"{self.origin}, with {self.choices - 1} distractors"

    def fields(self) -> Mapping[str, type]:
        """Return the fields and their types."""
        choices = {f"choice_{letter}": str for letter in LETTERS[: self.choices]}
        return {**dict.fromkeys(self.longest, str), **choices, "right": int, "candidate": str, "fits": int}

    def block_sizes(self, split: str) -> np.ndarray:
        """Return 256 for every block but the last. The first call reads the whole origin."""
        size = len(self._examples(split))
        return np.minimum(_BLOCK, size - np.arange(0, size, _BLOCK))

    def read_block(self, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Return a block. Raise UserError if the split has too few different answers."""
        size = len(self._examples(split))
        return [self._example(split, place) for place in range(block * _BLOCK, min((block + 1) * _BLOCK, size))]

    def _examples(self, split: str) -> list[Mapping[str, Any]]:
        if split not in self._kept:
            for name in self.longest:
                if name not in self.origin.fields():
                    raise UserError(f"{self.origin}: has no field {name!r}.{nearest(name, self.origin.fields())}")
            found = (
                example
                for block in range(len(self.origin.block_sizes(split)))
                for example in self.origin.read_block(split, block)
            )
            kept = [{name: example[name] for name in self.longest} for example in found]
            self._kept[split] = [
                example for example in kept if all(len(example[name]) <= limit for name, limit in self.longest.items())
            ]
        return self._kept[split]

    def _example(self, split: str, place: int) -> Mapping[str, Any]:
        examples = self._examples(split)
        example = examples[place]
        right = example[self.answer]
        window = self.window
        while (
            len(wrong := self._wrong_answers(examples, place, window)) < self.choices - 1
        ):  # many neighbours can have the same answer
            if window >= len(examples):
                raise UserError(
                    f"{self}, split {split!r}: has only {len(wrong) + 1} different answers, but needs {self.choices}."
                )
            window *= 2
        seed = hashlib.blake2b(repr((place, sorted(example.items()))).encode(), digest_size=8).digest()
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
        picked = [wrong[i] for i in generator.permutation(len(wrong))[: self.choices - 1]]
        position, fits = int(generator.integers(self.choices)), int(generator.integers(2))
        choices = [*picked[:position], right, *picked[position:]]
        return {
            **example,
            **{f"choice_{letter}": text for letter, text in zip(LETTERS, choices, strict=False)},
            "right": position,
            "candidate": right if fits else picked[0],
            "fits": fits,
        }

    def _wrong_answers(self, examples: Sequence[Mapping[str, Any]], place: int, window: int) -> list[str]:
        """Return the sorted wrong answers in the window. At the ends of the split, the window shifts to stay inside."""
        start = max(0, min(place - window, len(examples) - 2 * window - 1))
        answers = {other[self.answer] for other in examples[start : start + 2 * window + 1]}
        return sorted(answers - {examples[place][self.answer]})
