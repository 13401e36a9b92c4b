"""Generated tasks with exact answers and unlimited examples: they show with certainty what a model has learned.

    reverse_words    "reverse: the cat sat"        -> "sat cat the"
    copy_words       "copy: the cat sat"           -> "the cat sat"
    sort_words       "sort words: the cat sat"     -> "cat sat the"
    sort_numbers     "sort: 31 4 15"               -> "4 15 31"
    add_numbers      "add: 12 + 34"                -> "46"
    parity           "parity: 137"                 -> "odd"        (labels even, odd)
    word_order       "in order: bat cat dog"       -> "yes"        (labels no, yes)

Each task has a variant for encoders, `NAME_fill_mask`. The splits are disjoint: a hash of the input's text determines its
split, so training never sees an input of a held-out split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from t2t.errors import UserError
from t2t.tasks import metrics
from t2t.tasks.objectives import encoder_features, fill_mask
from t2t.tasks.register import add
from t2t.tasks.sources.blocks import BlockSource
from t2t.tasks.splitting import TRAIN, held_out_shares, split_of

Make = Callable[[np.random.Generator], tuple[str, ...]]
"""Draws one example: its input, its answer, and any other fields."""

_WORDS = """
ant ape art axe bag bat bed bee big box boy bus cap car cat cow cup day dog dot ear egg end eye fan far fig fly fog
fox fun gas gem hat hen hot ice ink jam jar job key kid kit leg lid log map mat men mix mud net nut oak oil old one
owl pan pen pie pig pin pot rat red rib rod row rug sad sea set sit six sky son sun tap tea ten tie tin top toy two
van wax web
"""
WORDS: tuple[str, ...] = tuple(_WORDS.split())
SIZES: Mapping[str, int] = {TRAIN: 100_000, "validation": 1_000, "test": 1_000}
SHARES: Mapping[str, float] = {"validation": 0.1, "test": 0.1}
_BLOCK = 256
_ATTEMPTS = 10_000


class GeneratedSource(BlockSource):
    """Examples from a seeded generator, block by block. They are the same on every machine and in any reading order.

    name:  part of the seed.
    make:  draws one example.
    sizes: number of examples of each split.
    seed:  another seed gives other examples, with the same assignment of inputs to splits.
    names: field names; a hash of the first field, `inputs`, determines the split of an example.
    """

    def __init__(
        self,
        name: str,
        make: Make,
        *,
        sizes: Mapping[str, int] = SIZES,
        seed: int = 0,
        names: Sequence[str] = ("inputs", "targets"),
    ) -> None:
        super().__init__(splits=list(sizes))
        self.shares = held_out_shares(SHARES)
        for split, size in sizes.items():
            if split != TRAIN and split not in self.shares:
                raise UserError(
                    f"split {split!r} of generated {name!r}: must be one of train, {', '.join(self.shares)}."
                )
            if size < 1:
                raise UserError(f"size {size} of split {split!r} of generated {name!r}: must be 1 or more.")
        self.name, self.make, self.sizes, self.seed, self.names = name, make, dict(sizes), seed, tuple(names)

    def __str__(self) -> str:
        return f"generated {self.name}"

    def fields(self) -> Mapping[str, type]:
        """Return `inputs` and `targets`, or the fields in `names`."""
        return dict.fromkeys(self.names, str)

    def block_sizes(self, split: str) -> np.ndarray:
        """Return 256 for every block but the last."""
        size = self.sizes[split]
        return np.minimum(_BLOCK, size - np.arange(0, size, _BLOCK))

    def read_block(self, split: str, block: int) -> Sequence[Mapping[str, Any]]:
        """Generate a block. Raise UserError if no input of the split can be found."""
        seed = hashlib.blake2b(f"{self.name}/{split}/{block}/{self.seed}".encode(), digest_size=8).digest()
        draw = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "little")))
        return [self._example(draw, split) for _ in range(int(self.block_sizes(split)[block]))]

    def _example(self, draw: np.random.Generator, split: str) -> Mapping[str, Any]:
        for _ in range(_ATTEMPTS):
            example = self.make(draw)
            if split_of(example[0].encode("utf-8"), self.shares) == split:
                return dict(zip(self.names, example, strict=True))
        raise UserError(
            f"generated {self.name!r}: found no input for split {split!r} in {_ATTEMPTS} attempts; the generator has too few different inputs."
        )


def _words(draw: np.random.Generator) -> list[str]:
    return [WORDS[place] for place in draw.integers(len(WORDS), size=draw.integers(2, 5))]


def reverse_words(draw: np.random.Generator) -> tuple[str, str]:
    """Return two to four words, and these words reversed."""
    words = _words(draw)
    return " ".join(words), " ".join(reversed(words))


def copy_words(draw: np.random.Generator) -> tuple[str, str]:
    """Return two to four words twice."""
    text = " ".join(_words(draw))
    return text, text


def sort_words(draw: np.random.Generator) -> tuple[str, str]:
    """Return two to four words, and these words in alphabetical order."""
    words = _words(draw)
    return " ".join(words), " ".join(sorted(words))


def sort_numbers(draw: np.random.Generator) -> tuple[str, str]:
    """Return three to five numbers below 100, and these numbers in ascending order."""
    numbers = draw.integers(100, size=draw.integers(3, 6)).tolist()
    return " ".join(map(str, numbers)), " ".join(map(str, sorted(numbers)))


def add_numbers(draw: np.random.Generator) -> tuple[str, str]:
    """Return two numbers below 1000, and their sum."""
    first, second = draw.integers(1000, size=2).tolist()
    return f"{first} + {second}", str(first + second)


def parity(draw: np.random.Generator) -> tuple[str, str]:
    """Return a number of up to five digits, and whether it is even or odd."""
    number = int(draw.integers(10 ** draw.integers(2, 6)))
    return str(number), ("even", "odd")[number % 2]


def word_order(draw: np.random.Generator) -> tuple[str, str]:
    """Return two to four words, and whether they are in alphabetical order; about half of them are."""
    words = _words(draw)
    if draw.random() < 0.5:
        words.sort()
    return " ".join(words), "yes" if words == sorted(words) else "no"


def register() -> None:
    """Register the generated tasks and their variants for encoders."""
    for make, prefix, labels in (
        (reverse_words, "reverse: ", None),
        (copy_words, "copy: ", None),
        (sort_words, "sort words: ", None),
        (sort_numbers, "sort: ", None),
        (add_numbers, "add: ", None),
        (parity, "parity: ", ("even", "odd")),
        (word_order, "in order: ", ("no", "yes")),
    ):
        name = make.__name__
        add_task = partial(
            add,
            source=GeneratedSource(name, make),
            prefix=prefix,
            inputs="inputs",
            targets="targets",
            labels=labels,
            metrics=[metrics.exact_match] if labels is None else [metrics.accuracy],
        )
        add_task(name)
        add_task(f"{name}_fill_mask", objective=fill_mask, features=encoder_features)


register()
