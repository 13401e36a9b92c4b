"""Base class of the vocabularies of the `tokenizers` library, and loading of a `tokenizer.json`.

For a damaged file, the library raises an Exception, panics in its Rust code, or panics at the first text.
"""

from __future__ import annotations

import abc
import base64
import binascii
import functools
import re
from dataclasses import dataclass
from typing import cast

import numpy as np
from tokenizers import Tokenizer as Library

from t2t.errors import UserError
from t2t.vocabularies.base import MARKER
from t2t.vocabularies.files import FileVocabulary

_CHARSMAP = re.compile(r'"precompiled_charsmap"\s*:\s*"([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class LibraryVocabulary(FileVocabulary):
    """A vocabulary that encodes texts with the `tokenizers` library."""

    @property
    @abc.abstractmethod
    def _tokenizer(self) -> Library:
        """The tokenizer with the sentinels."""

    @property
    def size(self) -> int:
        """The largest id + 1."""
        return _size_when_loaded(self._tokenizer)

    def library(self) -> Library:
        """Return a copy of the library's tokenizer, including the sentinels."""
        return Library.from_str(self._tokenizer.to_str())

    def special_tokens(self) -> dict[str, int]:
        """Return the text and the id of each special token. A text that contains one gets its id."""
        tokens = self._tokenizer.get_added_tokens_decoder().items()
        return {token.content: number for number, token in tokens if token.special}

    def encode(self, text: str) -> list[int]:
        """Return the ids without BOS and EOS. Special tokens in the text become their ids."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids. The file defines which whitespace belongs to a sentinel or the mask."""
        return self.encode(MARKER.sub(lambda match: cast(str, self._tokenizer.id_to_token(self._marked(match))), text))


@functools.lru_cache(maxsize=16)
def _size_when_loaded(tokenizer: Library) -> int:
    """Return `size_of` a tokenizer that does not change any more. The library makes a copy of all its tokens for it."""
    return size_of(tokenizer)


def load(content: bytes, where: str) -> Library:
    """Return the tokenizer of a tokenizer.json, without padding and truncation.

    Raises UserError, which names the file `where`, if the library cannot read it.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary file {where!r} is not UTF-8 text (byte {error.start}).") from None
    for found in _CHARSMAP.finditer(text):
        # A panic would print a Rust backtrace before Python can handle it.
        if not _is_charsmap(found[1]):
            raise UserError(f"vocabulary file {where!r} is not a tokenizer.json: its precompiled_charsmap is damaged.")
    try:
        tokenizer = Library.from_str(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a Rust panic is not an Exception, and all other errors are plain Exceptions
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 200 else f"{reason[:197]}..."
        raise UserError(f"vocabulary file {where!r} is not a tokenizer.json: {reason}.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def added(tokenizer: Library) -> dict[str, int]:
    """Return the added tokens with their ids. They are matched before the text is split."""
    return {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}


def size_of(tokenizer: Library) -> int:
    """Return one more than the largest id."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _is_charsmap(encoded: str) -> bool:
    """Return whether SentencePiece's normalization table is intact: a double-array trie (Darts) without paths out of it, and the texts of its leaves."""
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return False
    size = int.from_bytes(content[:4], "little")
    units = np.frombuffer(content[4 : 4 + size], "<u4") if 0 < size <= len(content) - 4 and size % 4 == 0 else None
    texts = content[4 + size :]
    if units is None or not _is_utf8(texts):
        return False
    units = units.astype(np.int64)
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    labels = units & (0x80000000 | 0xFF)
    bases = np.array([offsets[0]])
    seen = np.zeros(len(units), bool)
    while len(bases):
        if (bases | 255).max() >= len(units):
            return False
        seen[bases] = True
        children = bases[:, None] ^ np.arange(1, 256)
        children = children[labels[children] == np.arange(1, 256)]
        bases = np.unique(children ^ offsets[children])
        ends = np.unique((children ^ offsets[children])[(units[children] >> 8) & 1 == 1])
        if len(ends) and ends.max() >= len(units):
            return False
        values = units[ends] & 0x7FFFFFFF
        if len(values) and (values.max() >= len(texts) or any(texts[v] & 0xC0 == 0x80 for v in values.tolist())):
            return False
        bases = bases[
            (bases >= len(units)) | ~seen[np.minimum(bases, len(units) - 1)]
        ]  # skip nodes already visited: entries share suffixes
    return True


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
