"""How to choose the next token: greedily, by drawing, or by beam search."""

from __future__ import annotations

from dataclasses import dataclass

from t2t.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Decoding:
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

    temperature: divides the logits; towards 0 it becomes greedy.
    top_k:       draw from the k likeliest tokens only (Fan et al. 2018, arXiv:1805.04833); 0 is all.
    top_p:       draw from the smallest set of likeliest tokens that holds at least this probability, after temperature
                 and top_k (Holtzman et al. 2020, arXiv:1904.09751); 1 is all. Of equally likely tokens at the edge the first are in.
    samples:     independent draws for each prompt.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    samples: int = 1

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature {self.temperature} must be above 0; greedy decoding is its limit at 0.")
        if self.top_k < 0:
            raise UserError(f"top_k {self.top_k} must be 0 (all tokens) or more.")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p {self.top_p} must be above 0 and at most 1.")
        if self.samples < 1:
            raise UserError(f"samples {self.samples} must be at least 1.")

    @property
    def outputs(self) -> int:
        """Sequences returned for each prompt."""
        return self.samples


@dataclass(frozen=True, kw_only=True)
class Beam(Decoding):
    """Beam search with the length penalty of Wu et al. 2016 (arXiv:1609.08144, eq. 14, no coverage term).

    size:           hypotheses kept a step; 1 is greedy.
    length_penalty: alpha: a hypothesis of n tokens (EOS included) scores its log-probability / ((5 + n) / 6)^alpha.
                    T5 and Google's translation use 0.6; 0 compares plain log-probabilities.
    return_n:       how many of the best hypotheses to return.
    """

    size: int = 4
    length_penalty: float = 0.6
    return_n: int = 1

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"beam size {self.size} must be at least 1.")
        if self.length_penalty < 0:
            raise UserError(f"length_penalty {self.length_penalty} must be 0 or more.")
        if not 1 <= self.return_n <= self.size:
            raise UserError(f"return_n {self.return_n} must be from 1 to the beam's size, {self.size}.")

    @property
    def outputs(self) -> int:
        """Sequences returned for each prompt."""
        return self.return_n
