"""Find the starts of words and sentences in token ids, from the pieces of a vocabulary.

A word starts at white space, or at the piece that marks it ("▁" in SentencePiece, "Ġ" in byte-level BPE, no "##" in WordPiece). The white
space belongs to the word. As in BERT, a punctuation mark is its own word. Every token belongs to exactly one word; a special token is its
own word.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from t2t.data.vocabularies import to_seqio
from t2t.errors import UserError
from t2t.tasks.objectives.special import ordinary_ids
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, Vocabulary, WordPiece

_SPACE, _MARK, _LETTER, _SPECIAL = range(4)
_FIRST, _LAST, _STOP, _BREAKS = range(4)
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UNKNOWN = "\ufffd"
"""Stands for a byte that is a part of a character; it counts as a letter."""


class Words:
    """Finds word and sentence starts in ids of one vocabulary.

    Raises:
      UserError: a vocabulary whose word boundaries are unknown.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._table = _table(vocabulary)

    def starts(self, ids: tf.Tensor) -> tf.Tensor:
        """Return where a word starts: bool [N] for ids [N]. The first token starts one."""
        first, before = self._column(ids, _FIRST), self._before(ids, _LAST)
        # White space before a word or a mark already starts it.
        started = tf.equal(before, _SPACE)
        mark = tf.logical_or(tf.equal(first, _MARK), tf.equal(before, _MARK))
        starts = tf.logical_and(tf.logical_or(tf.equal(first, _SPACE), mark), tf.logical_not(started))
        return tf.logical_or(starts, tf.logical_or(tf.equal(first, _SPECIAL), tf.equal(before, _SPECIAL)))

    def sentences(self, ids: tf.Tensor) -> tf.Tensor:
        """Return where a sentence starts: bool [N] for ids [N]. It starts at white space after a full stop or at an empty line."""
        first, before = self._column(ids, _FIRST), self._before(ids, _LAST)
        spaced = tf.logical_and(tf.equal(first, _SPACE), tf.not_equal(before, _SPACE))
        breaks = self._column(ids, _BREAKS)
        following = tf.concat([breaks[1:], tf.zeros_like(breaks[:1])], 0)
        empty_line = tf.logical_and(breaks > 0, breaks + following > 1)
        return tf.logical_and(spaced, tf.logical_or(tf.equal(self._before(ids, _STOP, 0), 1), empty_line))

    def after_space(self, ids: tf.Tensor) -> tf.Tensor:
        """Return where the previous token ends in white space: bool [N] for ids [N]."""
        return tf.equal(self._before(ids, _LAST), _SPACE)

    def _column(self, ids: tf.Tensor, column: int) -> tf.Tensor:
        return tf.gather(self._table[:, column], ids)

    def _before(self, ids: tf.Tensor, column: int, first: int = _SPECIAL) -> tf.Tensor:
        """Return a column of the token before each token; `first` for the first token."""
        found = self._column(ids, column)
        return tf.concat([tf.fill(tf.shape(found[:1]), first), found[:-1]], 0)


@functools.lru_cache(maxsize=16)
def _table(vocabulary: Vocabulary) -> np.ndarray:
    """Return int32 [size, 4]: for each id, the kinds of its first and last character, whether it ends a sentence, and its number of line breaks."""
    table = np.tile(np.array([_SPECIAL, _SPECIAL, 0, 0], np.int32), (vocabulary.size, 1))
    text = token_texts(vocabulary)
    for i in ordinary_ids(vocabulary):
        piece = text[i]
        if piece:
            stop = piece.rstrip()[-1:] in (".", "!", "?", "。", "！", "？")
            table[i] = _kind(piece[0]), _kind(piece[-1]), stop, piece.count("\n")
        else:
            table[i] = _LETTER, _LETTER, 0, 0
    return table


def _kind(character: str) -> int:
    if character.isspace():
        return _SPACE
    if character == _UNKNOWN or unicodedata.category(character)[0] not in "PS":
        return _LETTER
    return _MARK


@functools.lru_cache(maxsize=16)
def token_texts(vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return the text that each id adds after other ids, including white space before a word. U+FFFD stands for a part of a character.

    Raises:
      UserError: a vocabulary whose word boundaries are unknown.
    """
    if isinstance(vocabulary, Bytes):
        return tuple(chr(i - 3) if 3 <= i < 3 + 128 else _UNKNOWN for i in range(vocabulary.size))
    if isinstance(vocabulary, SentencePiece):
        processor = to_seqio(vocabulary).tokenizer
        return tuple(_metaspace(processor.IdToPiece(i)) for i in range(vocabulary.size))
    if isinstance(vocabulary, WordPiece | Tokenizer):
        library, kind = _library(vocabulary)
        of_kind = {"WordPiece": _wordpiece, "Metaspace": _metaspace, "ByteLevel": _byte_level}[kind]
        return tuple(of_kind(library.id_to_token(i) or "") for i in range(vocabulary.size))
    raise UserError(
        f"the word boundaries of {vocabulary} are unknown; supported vocabularies are Bytes, SentencePiece, WordPiece and Tokenizer."
    )


def token_offsets(vocabulary: Vocabulary, text: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the text and the start and end of each of its tokens. For SentencePiece, the text is the normalized text.

    Raises:
      UserError: a vocabulary whose word boundaries are unknown.
    """
    if isinstance(vocabulary, Bytes):
        return text, [(at, at + 1) for at, character in enumerate(text) for _ in character.encode("utf-8")]
    if isinstance(vocabulary, WordPiece | Tokenizer):
        return text, _library(vocabulary)[0].encode(text, add_special_tokens=False).offsets
    known = token_texts(vocabulary)
    pieces = [known[i] for i in vocabulary.encode(text)]
    ends = np.cumsum([0, *map(len, pieces)]).tolist()
    return "".join(pieces), list(itertools.pairwise(ends))


@functools.lru_cache(maxsize=16)
def _library(vocabulary: WordPiece | Tokenizer) -> tuple[Any, str]:
    """Return the tokenizer and the kind of its pieces: "WordPiece", "ByteLevel" or "Metaspace"."""
    library = vocabulary.library()
    if isinstance(vocabulary, WordPiece):
        return library, "WordPiece"
    steps = list(_steps(json.loads(library.to_str())["decoder"]))
    for kind, matches in (
        ("ByteLevel", "ByteLevel" in steps),
        ("Metaspace", "Metaspace" in steps or "▁" in steps),
        ("WordPiece", "WordPiece" in steps),
    ):
        if matches:
            return library, kind
    raise UserError(
        f"the word boundaries of {vocabulary} are unknown: its decoder is {' + '.join(steps) or None}; supported decoders are ByteLevel, Metaspace and WordPiece."
    )


def _steps(decoder: dict[str, Any] | None) -> Iterator[str]:
    """Yield the names of a decoder's steps. For a step that replaces text, also yield that text."""
    if decoder is None:
        return
    for inner in decoder.get("decoders", ()):
        yield from _steps(inner)
    if decoder["type"] != "Sequence":
        yield decoder["type"]
    if decoder["type"] == "Replace":
        yield str(decoder.get("pattern", {}).get("String"))


def _metaspace(piece: str) -> str:
    byte = _BYTE.fullmatch(piece)
    if byte:
        return chr(int(byte[1], 16)) if int(byte[1], 16) < 128 else _UNKNOWN
    return piece.replace("▁", " ")


def _wordpiece(piece: str) -> str:
    return piece[2:] if piece.startswith("##") else f" {piece}"


def _byte_level(piece: str) -> str:
    codes = _byte_characters()
    if any(character not in codes for character in piece):  # an added token is plain text
        return piece
    return bytes(codes[character] for character in piece).decode("utf-8", errors="replace")


@functools.cache
def _byte_characters() -> dict[str, int]:
    """Return GPT-2's characters for bytes: printable bytes map to themselves, the others to 256 and up, in order."""
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + n): byte for n, byte in enumerate(hidden)}
