"""Lengths for span corruption, like T5's `random_spans_helper` (https://arxiv.org/abs/1910.10683)."""

from __future__ import annotations

from collections.abc import Callable

from t2t.errors import UserError


def noise_counts(length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """Return the numbers of noise tokens and noise spans in a text of `length` tokens.

    A text of one token is not corrupted. Every span has at least one token, and follows at least one kept token.
    """
    if length < 2:
        return 0, 0
    tokens = min(max(round(length * noise_density), 1), length - 1)
    spans = min(max(round(tokens / mean_span), 1), tokens, length - tokens)
    return tokens, spans


def corrupted_lengths(length: int, noise_density: float = 0.15, mean_span: float = 3.0) -> tuple[int, int]:
    """Return the lengths of inputs and targets for a text of `length` tokens, with one sentinel for each span and EOS."""
    tokens, spans = noise_counts(length, noise_density, mean_span)
    return length - tokens + spans + 1, tokens + spans + 1


def raw_length(inputs_length: int, noise_density: float = 0.15, mean_span: float = 3.0) -> int:
    """Return the number of text tokens whose corrupted inputs fill `inputs_length`, including EOS.

    512 gives 568 (and targets of 114). As in T5, the result is one less if half of the text is noise and the targets would
    be longer than the inputs.

    Raises:
      UserError: a density or span out of range, or no space for a text of two tokens.
    """
    check(noise_density, mean_span)
    if inputs_length < 3:
        raise UserError(f"inputs_length={inputs_length} is too short for span corruption: it needs at least 3.")
    length = longest(lambda n: corrupted_lengths(n, noise_density, mean_span)[0] <= inputs_length)
    inputs, targets = corrupted_lengths(length, noise_density, mean_span)
    if noise_density == 0.5 and targets > inputs:
        length -= 1
    return length


def raw_length_of_spans(spans: int, noise_density: float, mean_span: float) -> int:
    """Return the length of the longest text with at most `spans` noise spans."""
    check(noise_density, mean_span)
    return longest(lambda n: noise_counts(n, noise_density, mean_span)[1] <= spans)


def longest_inputs(
    noise_density: float, mean_span: float, *, targets_length: int | None = None, spans: int | None = None
) -> int:
    """Return the longest inputs length whose windows respect a targets length or a number of spans; 0 if there is none."""

    def fits(length: int) -> bool:
        return (
            targets_length is None or corrupted_lengths(length, noise_density, mean_span)[1] <= targets_length
        ) and (spans is None or noise_counts(length, noise_density, mean_span)[1] <= spans)

    # A window may grow by one noise token without longer inputs, so search downwards for the final length.
    inputs = corrupted_lengths(longest(fits), noise_density, mean_span)[0]
    while inputs >= 3 and not fits(raw_length(inputs, noise_density, mean_span)):
        inputs -= 1
    return inputs if inputs >= 3 else 0


def check(noise_density: float, mean_span: float) -> None:
    """Raise UserError unless 0 < noise_density < 1 and mean_span >= 1."""
    if not 0 < noise_density < 1:
        raise UserError(f"noise_density={noise_density} of span corruption: must be between 0 and 1; T5 uses 0.15.")
    if not 1 <= mean_span < float("inf"):
        raise UserError(f"mean_span={mean_span} of span corruption: must be at least 1 token; T5 uses 3.")


def longest(fits: Callable[[int], bool]) -> int:
    """Return the largest n for which `fits(n)` is true, by binary search. `fits` must be monotonic."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
