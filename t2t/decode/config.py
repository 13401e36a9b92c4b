"""Decoding strategies: greedy, sampling and beam search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from t2t.errors import UserError
from t2t.limits import Configuration, Few, Range

Temperature = Annotated[float, Range(1e-6, 1e6, typical=1.0)]
"""Divisor of the logits. A smaller value would make them infinite in float32. Greedy decoding is the limit at 0."""
TopK = Annotated[int, Range(0, 2**24)]
"""Number of the most likely tokens to sample from; 0 means all."""
TopP = Annotated[float, Range(1e-6, 1.0)]
"""Minimum total probability of the tokens to sample from."""
Samples = Annotated[int, Range(1, 2**16)]
"""Independent samples per prompt."""
LengthPenalty = Annotated[float, Range(0.0, 10.0)]
"""Exponent alpha of the length penalty. Far above 1, the longest hypothesis always wins."""


@dataclass(frozen=True, kw_only=True)
class Decoding(Configuration):
    """Base class of the decoding strategies. `outputs` is the dimension N of `Generated`."""

    @property
    def outputs(self) -> int:
        """Number of sequences returned per prompt."""
        return 1


@dataclass(frozen=True, kw_only=True)
class Greedy(Decoding):
    """Choose the most likely token at each step."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Decoding):
    """Sample tokens at random.

    Args:
        temperature: divisor of the logits. Values near 0 approach greedy decoding.
        top_k: sample only from the k most likely tokens (Fan et al. 2018, arXiv:1805.04833); 0 means all.
        top_p: sample from the smallest set of most likely tokens whose total probability is at least this value, after temperature
            and top_k (Holtzman et al. 2020, arXiv:1904.09751); 1 means all. Ties are broken by the lower token id.
        samples: independent samples per prompt.
    """

    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: TopP = 1.0
    samples: Samples = 1

    @property
    def outputs(self) -> int:
        """Number of sequences returned per prompt."""
        return self.samples


@dataclass(frozen=True, kw_only=True)
class Beam(Decoding):
    """Beam search with the length penalty of Wu et al. 2016 (arXiv:1609.08144, eq. 14, no coverage term).

    Args:
        size: hypotheses kept at each step; 1 is greedy decoding.
        length_penalty: exponent alpha. The score of a hypothesis of n tokens (EOS included) is its log-probability / ((5 + n) / 6)^alpha.
            T5 and Google's translation system use 0.6; 0 compares log-probabilities without a penalty.
        return_n: number of best hypotheses to return.
    """

    size: Few = 4
    length_penalty: LengthPenalty = 0.6
    return_n: Few = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.return_n > self.size:
            raise UserError(
                f"return_n {self.return_n} is greater than the beam size {self.size}. Nearest: {self.size}."
            )

    @property
    def outputs(self) -> int:
        """Number of sequences returned per prompt."""
        return self.return_n
