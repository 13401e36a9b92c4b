"""Comparison of two tokenizers on texts that reveal common differences."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence

from t2t.errors import Failure
from t2t.vocabularies import Vocabulary

_ACCENTS = "naïve café, Ångström, žluťoučký kůň"
_HANGUL = "각각 한국어"

TEXTS = (
    "",
    " ",
    "   ",
    "Hello, World! don't we'll",
    " one space before",
    "   three before and two behind  ",
    "runs  of   spaces    within",
    "a line\nand another\n\nand\r\nmore\rend\n",
    "\ta tab\tand\t\ttwo",
    _ACCENTS,
    unicodedata.normalize("NFD", _ACCENTS),
    _HANGUL,
    unicodedata.normalize("NFD", _HANGUL),
    "ＡＢＣ１２３ ﬁ ﬂ Ⅳ ½ ㎏ ™ … Å",
    "ẞß İıſ ǅ Σς",
    "日本語の文章、漢字とかな。中文字符，你好！",
    "مرحبا بالعالم ١٢٣ שלום עולם",
    "क्षत्रिय नमस्ते ภาษาไทย",
    "Привет, мир! Γειά σου",
    "🙂 👩‍👩‍👧 🏳️‍🌈 🇩🇪 👍🏽",
    "zero\u200bwidth\u200djoiner\ufeffmark\u00adsoft",
    "no\u00a0break\u3000ideographic\u2028line\u2029paragraph\u0085next",
    "\x01\x07\x1b[0m\x7f control",
    "0 1 12 123 1234 12345 3.14 1,000,000 1e-5 0x1F 2024-01-31",
    "https://example.org/a/b?c=d&e=%20#f user@example.org C:\\dir\\file.txt",
    "def f(x: int) -> int:\n    return x ** 2  # squared\n",
    '{"a": [1, 2.5, null], "b": "\\n"}',
    "CamelCase snake_case kebab-case ALLCAPS iPhone",
    "¿Qué? «quoted» “curly” ‘single’ – — ―",
    "x" * 300,
    "antidisestablishmentarianism" * 5,
    "<b>tags</b> &amp; [brackets] {braces} |pipes| ~`^",
    "\U0001f980\U00010348 \U0002a6d6",
)
"""Texts without sentinels and special tokens. `marked` returns texts that contain them."""


def marked(tokens: Iterable[str]) -> list[str]:
    """Return texts with the given tokens: at both ends, attached to words, between spaces, before punctuation, repeated."""
    forms = ("{0}", "a {0} b", "a{0}b", "{0}. Then", "one  {0}  two", "the end {0}", "{0}{0} {0}", "(a, {0}, b)")
    return [form.format(token) for token in tokens for form in forms]


def sentinels(vocabulary: Vocabulary) -> list[str]:
    """Return the first, a middle and the last sentinel, or [] if the vocabulary has none."""
    count = vocabulary.extra_ids
    return [f"<extra_id_{i}>" for i in sorted({0, count // 2, count - 1})] if count else []


def difference(
    ours: Callable[[str], Sequence[int]], theirs: Callable[[str], Sequence[int]], texts: Iterable[str]
) -> str | None:
    """Return a description of the first difference between the ids of two tokenizers, or None if all ids are equal."""
    for text in texts:
        one, other = list(ours(text)), list(theirs(text))
        if one != other:
            pairs = zip([*one, None], [*other, None], strict=False)
            place = next(i for i, (a, b) in enumerate(pairs) if a != b)
            shown = text if len(text) <= 60 else f"{text[:57]}..."
            return f"in the text {shown!r} token {place + 1} is {_at(one, place)} and {_at(other, place)}"
    return None


def check(
    what: str,
    ours: Callable[[str], Sequence[int]],
    theirs: Callable[[str], Sequence[int]],
    texts: Sequence[str],
) -> int:
    """Compare two tokenizers and return the number of texts. Raises Failure if ids differ. what: the subject of the error message."""
    if found := difference(ours, theirs, texts):
        raise Failure(f"{what} give different ids than the vocabulary: {found} (the vocabulary first)")
    return len(texts)


def _at(ids: Sequence[int], place: int) -> str:
    window = ids[place : place + 4]
    return f"{ids[place]} ({' '.join(map(str, window))} ...)" if window else "missing"
