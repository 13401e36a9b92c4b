"""Show what an objective does to a text, token by token: in colours, or in brackets if colours are not available."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from rich.text import Text

from t2t.vocabularies import Vocabulary

Mark = Literal[
    "text", "prefix", "special", "sentinel", "sentence", "noise", "mask", "masked", "replaced", "kept", "learned"
]

STYLES: dict[Mark, str] = {
    "text": "",
    "prefix": "bold blue",
    "special": "dim",
    "sentinel": "bold cyan",
    "sentence": "bold cyan",
    "noise": "black on yellow",
    "mask": "black on yellow",
    "masked": "black on yellow",
    "replaced": "white on red",
    "kept": "black on green",
    "learned": "black on yellow",
}
_WINDOW = 8
"""Number of preceding tokens that are decoded together with a token. Its text can depend on them: parts of a character, the space between words."""


@dataclass(frozen=True)
class Piece:
    """A part of the text with one mark. `instead`: for replaced tokens, the text that the model sees instead."""

    text: str
    mark: Mark
    instead: str = ""


Marked = tuple[int, Mark]


def special(token: int, vocabulary: Vocabulary) -> str | None:
    """Return the name of a special token, or None for an ordinary token."""
    if vocabulary.size - vocabulary.extra_ids <= token < vocabulary.size:
        return f"<extra_id_{vocabulary.size - 1 - token}>"
    names = {
        vocabulary.pad_id: "<pad>",
        vocabulary.unk_id: "<unk>",
        vocabulary.eos_id: "</s>",
        vocabulary.cls_id: "[CLS]",
        vocabulary.sep_id: "[SEP]",
        vocabulary.mask_id: "[MASK]",
    }
    return names.get(token) if 0 <= token < vocabulary.size else f"<id {token}>"


def texts(ids: Sequence[int], vocabulary: Vocabulary) -> list[str]:
    """Return the text of each token in its context. Joined, they give the whole text, with the spaces between words.

    If the bytes of a character are several tokens, the last of these tokens has the character.
    """
    found: list[str] = []
    ordinary: list[int] = []
    for token in map(int, ids):
        name = special(token, vocabulary)
        if name is not None:
            found.append(name)
            continue
        before = vocabulary.decode(ordinary[-_WINDOW:])
        after = vocabulary.decode([*ordinary[-_WINDOW:], token])
        same = next(
            (at for at, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
        )
        found.append(after[same:])
        ordinary.append(token)
    return found


def pieces(marked: Sequence[Marked], vocabulary: Vocabulary) -> list[Piece]:
    """Group consecutive tokens with the same mark into pieces."""
    of_tokens = texts([token for token, _ in marked], vocabulary)
    return [
        Piece(_joined([text for text, _ in run], mark), mark)
        for mark, run in groupby(zip(of_tokens, (mark for _, mark in marked), strict=True), key=lambda item: item[1])
    ]


def _joined(of_tokens: Sequence[str], mark: Mark) -> str:
    """Join the texts of a run. A run of bytes without a complete character becomes U+FFFD, so that its mark is visible."""
    text = "".join(of_tokens)
    return "\ufffd" if not text and mark != "text" else text


def plain(ids: Sequence[int], vocabulary: Vocabulary, *, prefix: str = "") -> list[Piece]:
    """Return an unchanged text. Sentinels are marked, and `prefix` is marked if the text starts with it."""
    lowest = vocabulary.size - vocabulary.extra_ids

    def mark(token: int) -> Mark:
        if lowest <= token < vocabulary.size:
            return "sentinel"
        return "text" if special(token, vocabulary) is None else "special"

    found = pieces([(int(i), mark(int(i))) for i in ids], vocabulary)
    if prefix and found and found[0].text.startswith(prefix):
        first = found[0]
        rest = [Piece(first.text[len(prefix) :], first.mark)] if len(first.text) > len(prefix) else []
        return [Piece(prefix, "prefix"), *rest, *found[1:]]
    return found


def is_corrupted(inputs: Sequence[int], targets: Sequence[int], vocabulary: Vocabulary) -> bool:
    """Return whether the targets start with a sentinel and share a sentinel with the inputs, as in span corruption."""
    lowest = vocabulary.size - vocabulary.extra_ids
    sentinels = {i for i in map(int, targets) if lowest <= i < vocabulary.size}
    return bool(sentinels) and int(targets[0]) in sentinels and bool(sentinels & set(map(int, inputs)))


def corrupted(inputs: Sequence[int], targets: Sequence[int], vocabulary: Vocabulary) -> list[Piece]:
    """Return the original text of span corruption: the kept parts, and after each sentinel the span that it replaces.

    No token is lost: spans of sentinels that are not in the inputs come last, before the EOS of the inputs.
    """
    lowest = vocabulary.size - vocabulary.extra_ids

    def sentinel(token: int) -> bool:
        return lowest <= token < vocabulary.size

    missing: dict[int, list[Marked]] = {}
    current = -1
    for token in map(int, targets):
        if sentinel(token):
            current = token
            missing.setdefault(current, [])
        elif token not in (vocabulary.pad_id, vocabulary.eos_id):
            missing.setdefault(current, []).append((token, "noise"))
    marked: list[Marked] = []
    tail: list[Marked] = []
    for token in map(int, inputs):
        if sentinel(token):
            marked += [(token, "sentinel"), *missing.pop(token, [])]
        elif token == vocabulary.eos_id:
            tail.append((token, "special"))
        elif token != vocabulary.pad_id:
            marked.append((token, "text"))
    for token, noise in missing.items():
        marked += [(token, "sentinel"), *noise] if token >= 0 else noise
    return pieces(marked + tail, vocabulary)


def dropped(inputs: Sequence[int], targets: Sequence[int], noise: Sequence[int], vocabulary: Vocabulary) -> list[Piece]:
    """Return the original text from the inputs (kept tokens) and the targets (dropped tokens). noise: 1 for each dropped token."""
    kept, missing = iter(inputs), iter(targets)
    marked: list[Marked] = [
        (int(next(missing)), "noise") if left_out else (int(next(kept)), "text") for left_out in noise
    ]
    return pieces([*marked, *((int(i), "special") for i in kept)], vocabulary)


def permuted(ids: Sequence[int], sentences: Sequence[int], vocabulary: Vocabulary) -> list[Piece]:
    """Return a text with permuted sentences, each preceded by its original number. sentences: for each token, the number of its sentence, from 0."""
    found: list[Piece] = []
    at = 0
    for number, run in groupby(map(int, sentences)):
        size = len(list(run))
        found += [Piece(str(number + 1), "sentence"), *plain(ids[at : at + size], vocabulary)]
        at += size
    return found + plain(ids[at:], vocabulary)


def infilled(ids: Sequence[int], vocabulary: Vocabulary) -> list[Piece]:
    """Return a text in which each mask replaces any number of tokens."""
    found: list[Piece] = []
    for is_mask, run in groupby(map(int, ids), key=lambda token: token == vocabulary.mask_id):
        part = list(run)
        found += [Piece("[MASK]", "mask")] * len(part) if is_mask else plain(part, vocabulary)
    return found


def masked(
    inputs: Sequence[int], targets: Sequence[int], weights: Sequence[float], vocabulary: Vocabulary
) -> list[Piece]:
    """Return the text of masked language modelling. The tokens to predict are marked as masked, replaced or kept."""
    marks: list[Mark] = []
    for seen, token, weight in zip(inputs, targets, weights, strict=True):
        if not weight:
            marks.append("text" if special(int(token), vocabulary) is None else "special")
        elif int(seen) == vocabulary.mask_id:
            marks.append("masked")
        else:
            marks.append("kept" if seen == token else "replaced")
    shown, instead = texts(targets, vocabulary), texts(inputs, vocabulary)
    runs = groupby(zip(shown, instead, marks, strict=True), key=lambda item: item[2])
    found = []
    for mark, items in runs:
        run = list(items)
        in_place = _joined([text for _, text, _ in run], mark) if mark == "replaced" else ""
        found.append(Piece(_joined([text for text, _, _ in run], mark), mark, in_place))
    return found


def learned(ids: Sequence[int], weights: Sequence[float], vocabulary: Vocabulary) -> list[Piece]:
    """Return a text in which the tokens with a weight in the loss are marked."""
    return pieces(
        [(int(i), "learned" if weight else "text") for i, weight in zip(ids, weights, strict=True)], vocabulary
    )


def render(found: Sequence[Piece], *, colour: bool) -> Text:
    """Return the pieces with their marks as colours, or as brackets.

    In brackets: `{prefix}`, `[<extra_id_0>: missing]`, `[MASK: masked]`, `[seen -> replaced]`, `[= kept]`, `[[learned]]`.
    """
    line = Text()
    for at, piece in enumerate(found):
        text = visible(piece.text)
        if colour:
            if piece.mark not in ("text", "special"):
                text = text.replace("\n", "⏎\n")  # the colour of a line break is not visible
            if piece.mark == "replaced":
                line.append(visible(piece.instead), style="strike red")
            line.append(text, style=STYLES[piece.mark])
            continue
        follows = at + 1 < len(found) and found[at + 1].mark == "noise"
        match piece.mark:
            case "prefix":
                line.append(f"{{{text}}}")
            case "sentence":
                line.append(f"[{text}]")
            case "sentinel":
                line.append(f"[{text}: " if follows else f"[{text}]")
            case "noise":
                after_sentinel = at > 0 and found[at - 1].mark == "sentinel"
                line.append(f"{text}]" if after_sentinel else f"[{text}]")
            case "masked":
                line.append(f"[MASK: {text}]")
            case "replaced":
                line.append(f"[{visible(piece.instead)} -> {text}]")
            case "kept":
                line.append(f"[= {text}]")
            case "learned":
                line.append(f"[[{text}]]")
            case _:
                line.append(text)
    return line


def legend(marks: set[Mark], *, colour: bool) -> Text:
    """Return the meanings of the marks that were used."""
    meanings: dict[Mark, tuple[str, str]] = {
        "prefix": ("prefix", "{prefix}"),
        "sentinel": ("sentinel", ""),
        "sentence": ("original number of the sentence", "[original number of the sentence]"),
        "noise": ("missing from the inputs, to predict", "[sentinel: missing from the inputs, to predict]"),
        "mask": ("replaces any number of tokens", "[MASK]: replaces any number of tokens"),
        "masked": ("masked, to predict", "[MASK: masked, to predict]"),
        "replaced": (
            "replaced (the model sees the struck-through token), to predict",
            "[the model sees this -> to predict]",
        ),
        "kept": ("unchanged, to predict", "[= unchanged, to predict]"),
        "learned": ("counts in the loss", "[[counts in the loss]]"),
    }
    if "sentinel" not in marks:
        meanings["noise"] = (meanings["noise"][0], f"[{meanings['noise'][0]}]")
    line = Text()
    for mark, (in_colour, in_brackets) in meanings.items():
        meaning = in_colour if colour else in_brackets
        if mark in marks and meaning:
            line.append("   " if line else "")
            line.append(meaning, style=STYLES[mark] if colour else "")
    return line


def visible(text: str) -> str:
    """Replace control characters by visible symbols, so that a text cannot control the terminal."""
    return "".join(_sign(character) for character in text)


def _sign(character: str) -> str:
    code = ord(character)
    if character in "\n\t":
        return character
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else "�" if 0x80 <= code < 0xA0 else character
