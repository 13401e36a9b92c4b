"""Generated tasks for encoders with their own heads, with exact answers like those of `generated`.

parity_label         "137"                                -> odd                     (labels even, odd)
divisors_labels      "60"                                 -> two, five, ten        (any of the labels two, five, ten)
words_number         "bat cat dog"                        -> 3                       (the number of words)
word_order_label     "bat cat dog"                        -> yes                     (labels no, yes)
reversed_pair_label  "the cat sat", "sat cat the"         -> yes                     (labels no, yes)
entity_tags          "cat 31 4 Fox Hen sea"               -> O B-NUMBER I-NUMBER B-NAME I-NAME O
entity_span          "number?", "cat 31 4 Fox Hen sea"    -> "31 4"
"""

from __future__ import annotations

import numpy as np

from t2t.tasks.answering import add_classification, add_regression, add_span_extraction, add_tagging
from t2t.tasks.generated import WORDS, GeneratedSource, parity, word_order

TAGS = ("O", "B-NUMBER", "I-NUMBER", "B-NAME", "I-NAME")


DIVISORS = {"two": 2, "five": 5, "ten": 10}


def divisors(draw: np.random.Generator) -> tuple[str, str]:
    """Return a number, and the names of those of its divisors that are 2, 5 or 10, separated by commas."""
    number = int(draw.integers(10_000))
    return str(number), ", ".join(name for name, divisor in DIVISORS.items() if number % divisor == 0)


def words(draw: np.random.Generator) -> tuple[str, str]:
    """Return one to nine words, and their number."""
    count = int(draw.integers(1, 10))
    return " ".join(WORDS[place] for place in draw.integers(len(WORDS), size=count)), str(count)


def reversed_pair(draw: np.random.Generator) -> tuple[str, str, str]:
    """Return three words, "yes" or "no", and three words: the first ones reversed for "yes" (half of the examples), other words for "no".

    If "no" had the same words in another order, both answers would have the same bytes and differ only in order. A small model finds no
    signal to start from there and stays at chance.
    """
    words = [WORDS[place] for place in draw.choice(len(WORDS), 6, replace=False)]
    if draw.random() < 0.5:
        return " ".join(words[:3]), "yes", " ".join(reversed(words[:3]))
    return " ".join(words[:3]), "no", " ".join(words[3:])


def _entities(draw: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return words with one run of numbers and one run of capitalised words, each of one or two words, and their tags."""

    def plain() -> list[tuple[str, str]]:
        return [(WORDS[place], "O") for place in draw.integers(len(WORDS), size=draw.integers(1, 3))]

    numbers = [str(number) for number in draw.integers(100, size=draw.integers(1, 3))]
    names = [WORDS[place].capitalize() for place in draw.integers(len(WORDS), size=draw.integers(1, 3))]
    runs = [
        [(word, f"{'I' if i else 'B'}-{kind}") for i, word in enumerate(run)]
        for run, kind in ((numbers, "NUMBER"), (names, "NAME"))
    ]
    if draw.random() < 0.5:
        runs.reverse()
    found = [*plain(), *runs[0], *plain(), *runs[1], *plain()]
    return [word for word, _ in found], [tag for _, tag in found]


def entity_tags(draw: np.random.Generator) -> tuple[str, str]:
    """Return five to ten words, and a tag for each: whether it starts or continues a number or a name."""
    words, tags = _entities(draw)
    return " ".join(words), " ".join(tags)


def entity_span(draw: np.random.Generator) -> tuple[str, str, str]:
    """Return five to ten words, the number or the name among them, and the question about it."""
    words, tags = _entities(draw)
    kind = ("NUMBER", "NAME")[draw.integers(2)]
    answer = " ".join(word for word, tag in zip(words, tags, strict=True) if tag.endswith(kind))
    return " ".join(words), answer, f"{kind.lower()}?"


def register() -> None:
    """Register the tasks."""
    for make, labels in ((parity, ("even", "odd")), (word_order, ("no", "yes"))):
        name = make.__name__
        source = GeneratedSource(name, make)
        add_classification(f"{name}_label", source=source, inputs="inputs", targets="targets", labels=labels)
    add_classification(
        "divisors_labels",
        source=GeneratedSource("divisors", divisors),
        inputs="inputs",
        targets="targets",
        labels=tuple(DIVISORS),
        several=True,
    )
    add_regression(
        "words_number",
        source=GeneratedSource("words", words),
        inputs="inputs",
        targets="targets",
    )
    add_classification(
        "reversed_pair_label",
        source=GeneratedSource("reversed_pair", reversed_pair, names=("inputs", "targets", "second")),
        inputs="inputs",
        second="second",
        targets="targets",
        labels=("no", "yes"),
    )
    add_tagging(
        "entity_tags",
        source=GeneratedSource("entity_tags", entity_tags),
        words="inputs",
        tags="targets",
        labels=TAGS,
    )
    add_span_extraction(
        "entity_span",
        source=GeneratedSource("entity_span", entity_span, names=("inputs", "targets", "question")),
        question="question",
        text="inputs",
        answer="targets",
    )


register()
