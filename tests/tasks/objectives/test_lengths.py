import itertools

import pytest

from t2t.errors import UserError
from t2t.tasks.objectives import corrupted_lengths, raw_length
from t2t.tasks.objectives.lengths import longest_inputs, noise_counts, raw_length_of_spans


def published(tokens, density, span):
    """T5's arithmetic, as its appendix and code state it: no clipping, one EOS on each side."""
    noise = round(tokens * density)
    spans = round(noise / span)
    return tokens - noise + spans + 1, noise + spans + 1


def test_the_published_numbers():
    assert raw_length(512) == 568
    assert corrupted_lengths(568) == (512, 114)


@pytest.mark.parametrize("density", [0.1, 0.15, 0.25, 0.5])
@pytest.mark.parametrize("span", [2.0, 3.0, 5.0, 10.0])
def test_the_window_is_the_longest_that_fits(density, span):
    for inputs in (64, 113, 256, 512, 1024):
        expected = max(n for n in range(1, 4 * inputs) if published(n, density, span)[0] <= inputs)
        if density == 0.5 and published(expected, density, span)[1] > published(expected, density, span)[0]:
            expected -= 1
        assert raw_length(inputs, density, span) == expected
        assert corrupted_lengths(expected, density, span) == published(expected, density, span)


@pytest.mark.parametrize(("density", "span"), itertools.product([0.05, 0.15, 0.5, 0.9], [1.0, 1.5, 3.0, 8.0]))
def test_counts_can_be_laid_out_and_never_shrink(density, span):
    before = (0, 0)
    for length in range(2, 700):
        tokens, spans = noise_counts(length, density, span)
        assert 1 <= spans <= min(tokens, length - tokens)
        lengths = corrupted_lengths(length, density, span)
        assert lengths >= before
        assert lengths[1] >= before[1]
        before = lengths


def test_the_inverse_functions_are_tight():
    for targets in range(3, 200):
        inputs = longest_inputs(0.15, 3.0, targets_length=targets)
        assert corrupted_lengths(raw_length(inputs))[1] <= targets < corrupted_lengths(raw_length(inputs + 1))[1]
    for spans in range(1, 100):
        inputs = longest_inputs(0.15, 3.0, spans=spans)
        assert (
            noise_counts(raw_length(inputs), 0.15, 3.0)[1] <= spans < noise_counts(raw_length(inputs + 1), 0.15, 3.0)[1]
        )
    assert longest_inputs(0.15, 3.0, targets_length=2) == longest_inputs(0.15, 3.0, spans=0) == 0
    longest = raw_length_of_spans(100, 0.15, 3.0)
    assert noise_counts(longest, 0.15, 3.0)[1] == 100
    assert noise_counts(longest + 1, 0.15, 3.0)[1] == 101


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((512, 0.0, 3.0), "noise_density=0.0"),
        ((512, 1.0, 3.0), "noise_density=1.0"),
        ((512, 0.15, 0.5), "mean_span=0.5"),
        ((512, float("nan"), 3.0), "noise_density=nan"),
        ((2, 0.15, 3.0), "inputs_length=2"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, named):
    with pytest.raises(UserError, match=named):
        raw_length(*arguments)
