"""How to choose the next token: greedily, by drawing, or by beam search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from t2t.errors import UserError
from t2t.limits import Configuration, Few, Range

Temperature = Annotated[float, Range(1e-6, 1e6, typical=1.0)]
"""Divides the logits. A smaller one would make them infinite in float32; greedy decoding is the limit at 0."""
TopK = Annotated[int, Range(0, 2**24)]
"""How many of the likeliest tokens to draw from; 0 is all."""
TopP = Annotated[float, Range(1e-6, 1.0)]
"""Least probability that the tokens to draw from hold together."""
Samples = Annotated[int, Range(1, 2**16)]
"""Independent draws for each prompt."""
LengthPenalty = Annotated[float, Range(0.0, 10.0)]
"""Alpha of beam search's length penalty; far above 1 the longest hypothesis always wins."""


@dataclass(frozen=True, kw_only=True)
class Decoding(Configuration):
    """Base of the ways to decode. `outputs` is the N of `Generated`."""

    @property
    def outputs(self) -> int:
        """Sequences returned for each prompt."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Greedy(Decoding):
    """Always the likeliest token."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Decoding):
    """Draw tokens at random.

    Args:
        temperature: divides the logits; towards 0 it becomes greedy.
        top_k: draw from the k likeliest tokens only (Fan et al. 2018, arXiv:1805.04833); 0 is all.
        top_p: draw from the smallest set of likeliest tokens that holds at least this probability, after temperature
            and top_k (Holtzman et al. 2020, arXiv:1904.09751); 1 is all. Of equally likely tokens at the edge the first are in.
        samples: independent draws for each prompt.
    """

    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    samples: Samples = 1

    @property
    def outputs(self) -> int:
        """Sequences returned for each prompt."""
        return self.samples


@dataclass(frozen=True, kw_only=True)
class Beam(Decoding):
    """Beam search with the length penalty of Wu et al. 2016 (arXiv:1609.08144, eq. 14, no coverage term).

    Args:
        size: hypotheses kept a step; 1 is greedy.
        length_penalty: alpha: a hypothesis of n tokens (EOS included) scores its log-probability / ((5 + n) / 6)^alpha.
            T5 and Google's translation use 0.6; 0 compares plain log-probabilities.
        return_n: how many of the best hypotheses to return.
    """

    size: Few = 4
    length_penalty: LengthPenalty = 0.6
    return_n: Few = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.return_n > self.size:
            raise UserError(
                f"return_n {self.return_n} must be from 1 to the beam's size, {self.size}. Nearest: {self.size}."
            )

    @property
    def outputs(self) -> int:
        """Sequences returned for each prompt."""
        return self.return_n
