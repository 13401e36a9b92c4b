"""Sparsity patterns of causal attention (Child et al. 2019, "Generating Long Sequences with Sparse Transformers", https://arxiv.org/abs/1904.10509)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Array, Bool, Int

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Length

Kind = Literal["strided", "fixed"]
Part = Literal["both", "local", "far"]


@dataclass(frozen=True, kw_only=True)
class Sparse(Configuration):
    """Which earlier tokens of its example a token sees.

    The paper factorizes attention into two parts. With a stride near the square root of the length, each part has about sqrt(length) keys for a query, and the
    two together reach every earlier token in two steps. Layers may have both parts at once, or take turns.

    Args:
        kind: "strided": the local part is the last `stride` tokens before the token and itself; the far part is every `stride`-th token before it. "fixed": the
            text is divided into periods of `stride` tokens; the local part is the token's own period, the far part the last `summaries` tokens of each period.
        stride: number of tokens from one far token to the next, or in a period.
        summaries: number of tokens at the end of each period that later tokens see, for "fixed" (c in the paper). A far part alone shows nothing to tokens
            before the first of them.
        part: "both", "local" or "far".

    Raises:
        UserError: a kind or part is unknown, or `summaries` is more than `stride`.
    """

    kind: Kind = "strided"
    stride: Length = 128
    summaries: Length = 8
    part: Part = "both"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, known in (("kind", self.kind, get_args(Kind)), ("part", self.part, get_args(Part))):
            if value not in known:
                raise UserError(f"unknown {name} {value!r} (model.sparse.{name}).{nearest(str(value), known)}")
        if self.kind == "fixed" and self.summaries > self.stride:
            raise UserError(
                f"model.sparse.summaries is {self.summaries}, more than model.sparse.stride = {self.stride}. Nearest: {self.stride}."
            )

    def sees(self, queries: Int[Array, "*#S"], keys: Int[Array, "*#S"]) -> Bool[Array, "*S"]:
        """Return whether queries see keys, given the positions of both in their example. Causality is not part of it: other masks hide later keys."""
        if self.kind == "strided":
            local, far = queries - keys <= self.stride, (queries - keys) % self.stride == 0
        else:
            local, far = queries // self.stride == keys // self.stride, self.summarizes(keys)
        return {"both": local | far, "local": local, "far": far}[self.part]

    def summarizes(self, positions: Int[Array, "*S"]) -> Bool[Array, "*S"]:
        """Return which tokens are at the end of their period."""
        return positions % self.stride >= self.stride - self.summaries

    @property
    def has_summaries(self) -> bool:
        """Whether the far part is the ends of periods. Which keys these are depends on where examples begin in a row."""
        return self.kind == "fixed" and self.part != "local"

    def near(self, shortest: int, longest: int) -> bool:
        """Return whether a query may see a key between `shortest` and `longest` tokens before it, not counting the ends of periods."""
        reach = self.stride if self.kind == "strided" else self.stride - 1
        local, first = shortest <= reach, max(shortest, 0)
        far = self.kind == "strided" and longest // self.stride * self.stride >= first
        return {"both": local or far, "local": local, "far": far}[self.part]
