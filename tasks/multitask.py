"""Prompted tasks without a download: training on many prompts and zero-shot evaluation on others (T0, FLAN).

    multitask             training: prompted_docs_summary, prompted_docs_match, prompted_reverse_words, ..._copy_words, ..._sort_words,
                          ..._sort_numbers, ..._add_numbers, ..._parity
    multitask_held_out    evaluation: docs_which_summary, docs_describes, prompted_word_order; all with choices

Each name is a mixture with one task for each template. `NAME_fill_mask` is the variant for encoders. The held-out mixtures also have
the variant `NAME_as_text`, without an EOS between question and answer, for models that were only pretrained on texts.

The held-out tasks read the signatures of functions and classes, which no task of `multitask` reads, or use their own generator. All
documentation tasks put a docstring in the same split. `docs_which_summary_plain` has no prompt words: only the signature, followed by the
summary. `prompted_docs_signature`, from a signature to its summary, is in neither mixture, because it would reveal the held-out tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from t2t.tasks import documentation, generated, metrics
from t2t.tasks.mixing import mix
from t2t.tasks.objectives import encoder_features, fill_mask, text_features
from t2t.tasks.prompts import add_prompted, check_held_out
from t2t.tasks.sources.distractors import DistractorSource
from t2t.tasks.templates import Template

SUMMARY: Mapping[str, str] = {
    "tldr": "{{ body | truncate(240, False, '') }}\n\nTL;DR: ||| {{ summary }}",
    "one sentence": "Say in one sentence what this is about.\n\n{{ body | truncate(240, False, '') }} ||| {{ summary }}",
    "first line": "Documentation:\n{{ body | truncate(240, False, '') }}\n\nWhat is its first line? ||| {{ summary }}",
    "summarize": "summarize: {{ body | truncate(240, False, '') }} ||| {{ summary }}",
}
MATCH: Mapping[str, str] = {
    "about": "{{ body | truncate(240, False, '') }}\n\nIs this about the following? {{ candidate }} ||| {{ answer_choices[fits] }}",
    "summary of": "Is \"{{ candidate }}\" a summary of the text below?\n\n{{ body | truncate(240, False, '') }} ||| {{ answer_choices[fits] }}",
    "belongs": "Text: {{ body | truncate(240, False, '') }}\nSummary: {{ candidate }}\nDo they belong together? ||| {{ answer_choices[fits] }}",
}
SIGNATURE: Mapping[str, str] = {
    "describe": "describe: {{ signature }} ||| {{ summary }}",
    "what does": "{{ signature }}\n\nWhat does it do? ||| {{ summary }}",
    "write": "Write the summary of the documentation of `{{ signature }}`. ||| {{ summary }}",
}
OPTIONS = "{{ choice_a }} ||| {{ choice_b }} ||| {{ choice_c }} ||| {{ choice_d }}"
WHICH_SUMMARY: Mapping[str, str] = {
    "plain": "{{ signature }} ||| {{ answer_choices[right] }}",
    "what does": "What does this do?\n\n{{ signature }} ||| {{ answer_choices[right] }}",
    "tldr": "{{ signature }}\n\nTL;DR: ||| {{ answer_choices[right] }}",
    "options": "{{ signature }}\n\nWhich of these says what it does?\n{% for choice in answer_choices %}- {{ choice }}\n{% endfor %} ||| {{ answer_choices[right] }}",
}
DESCRIBES: Mapping[str, str] = {
    "does it": "{{ signature }}\n\n{{ candidate }}\n\nDoes the sentence say what it does? ||| {{ answer_choices[fits] }}",
    "belongs": "Text: {{ signature }}\nSummary: {{ candidate }}\nDo they belong together? ||| {{ answer_choices[fits] }}",
}
GENERATED: Mapping[str, tuple[str | None, Mapping[str, str]]] = {
    "reverse_words": (
        None,
        {
            "backwards": "Write these words backwards, the last one first: {{ inputs }} ||| {{ targets }}",
            "reversed": "{{ inputs }}\nIn reversed order: ||| {{ targets }}",
            "last first": "What is '{{ inputs }}' from last to first? ||| {{ targets }}",
        },
    ),
    "copy_words": (
        None,
        {
            "repeat": "Repeat after me: {{ inputs }} ||| {{ targets }}",
            "same again": "{{ inputs }}\nThe same again: ||| {{ targets }}",
        },
    ),
    "sort_words": (
        None,
        {
            "alphabetical": "Put these words in alphabetical order: {{ inputs }} ||| {{ targets }}",
            "a to z": "{{ inputs }}\nFrom a to z: ||| {{ targets }}",
            "dictionary": "In what order does a dictionary have '{{ inputs }}'? ||| {{ targets }}",
        },
    ),
    "sort_numbers": (
        None,
        {
            "smallest first": "Sort these numbers, the smallest first: {{ inputs }} ||| {{ targets }}",
            "ascending": "{{ inputs }}\nIn ascending order: ||| {{ targets }}",
        },
    ),
    "add_numbers": (
        None,
        {
            "how much": "How much is {{ inputs }}? ||| {{ targets }}",
            "equals": "{{ inputs }} = ||| {{ targets }}",
            "sum": "What is the sum {{ inputs }}? ||| {{ targets }}",
        },
    ),
    "parity": (
        "even ||| odd",
        {
            "which": "Is {{ inputs }} even or odd? ||| {{ targets }}",
            "number": "Number: {{ inputs }}\nEven or odd? ||| {{ targets }}",
            "divisible": "{{ inputs }} can be divided by two if it is even. It is ||| {{ targets }}",
        },
    ),
    "word_order": (
        "no ||| yes",
        {
            "alphabetical": "Are these words in alphabetical order? {{ inputs }} ||| {{ targets }}",
            "sorted": "{{ inputs }}\nIs this sorted from a to z? ||| {{ targets }}",
            "dictionary": "Would a dictionary have these words in this order: {{ inputs }}? ||| {{ targets }}",
        },
    ),
}
FILL_MASK, AS_TEXT = "_fill_mask", "_as_text"
HELD_OUT = ("docs_which_summary", "docs_describes", "prompted_word_order")


def prompts(written: Mapping[str, str], answer_choices: str | None = None) -> Sequence[Template]:
    """Return templates by name, all with the same answer choices."""
    return [Template(name=name, jinja=jinja, answer_choices=answer_choices) for name, jinja in written.items()]


def register() -> None:
    """Register the prompted tasks and the mixtures. This does not create the corpus."""
    summaries, signatures = (
        documentation.DocumentationSource("summaries"),
        documentation.DocumentationSource("signatures"),
    )
    # Maximum lengths, so that four options and the signature fit in 512 bytes.
    about_bodies = DistractorSource(summaries, answer="summary", longest={"body": 480, "summary": 72})
    about_signatures = DistractorSource(signatures, answer="summary", longest={"signature": 100, "summary": 72})
    for name, source, templates, scores in (
        ("prompted_docs_summary", summaries, prompts(SUMMARY), [metrics.rouge]),
        ("prompted_docs_match", about_bodies, prompts(MATCH, "no ||| yes"), []),
        ("prompted_docs_signature", signatures, prompts(SIGNATURE), [metrics.rouge]),
        ("docs_which_summary", about_signatures, prompts(WHICH_SUMMARY, OPTIONS), []),
        ("docs_describes", about_signatures, prompts(DESCRIBES, "no ||| yes"), []),
    ):
        _add(name, source, templates, scores)
    for name, (choices, written) in GENERATED.items():
        source = generated.GeneratedSource(name, getattr(generated, name))
        _add(f"prompted_{name}", source, prompts(written, choices), [metrics.exact_match] if choices is None else [])
    trained = [f"prompted_{name}" for name in GENERATED if f"prompted_{name}" not in HELD_OUT]
    # Rates count examples: documentation texts are several times as long as generated examples.
    rates = {"prompted_docs_summary": 3, "prompted_docs_match": 3, **dict.fromkeys(trained, 2)}
    for suffix in ("", FILL_MASK):
        mix(f"multitask{suffix}", {f"{name}{suffix}": rate for name, rate in rates.items()})
        mix(f"multitask_held_out{suffix}", {f"{name}{suffix}": 1 for name in HELD_OUT})
        check_held_out(f"multitask{suffix}", f"multitask_held_out{suffix}")


def _add(name: str, source: Any, templates: Sequence[Template], scores: Sequence[Callable[..., Any]]) -> None:
    add_variant = partial(add_prompted, name, source=source, templates=templates)
    add_variant(metrics=scores)
    if name in HELD_OUT:
        add_variant(features=partial(text_features, continued=True), suffix=AS_TEXT)
    add_variant(metrics=scores, objective=fill_mask, features=encoder_features, suffix=FILL_MASK)


register()
