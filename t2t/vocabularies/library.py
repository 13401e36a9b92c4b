"""Loading a `tokenizer.json` with the `tokenizers` library, which answers a damaged file in three ways: an Exception, a panic of its Rust code, or a panic at the first text."""

from __future__ import annotations

import base64
import binascii
import re

import numpy as np
from tokenizers import Tokenizer as Library

from t2t.errors import UserError

_CHARSMAP = re.compile(r'"precompiled_charsmap"\s*:\s*"([^"]*)"')


def load(content: bytes, where: str) -> Library:
    """Return the tokenizer of a tokenizer.json, without padding and truncation.

    Raises UserError, naming the file `where`, for what the library cannot read.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary file {where!r} is not UTF-8 text (byte {error.start}).") from None
    for found in _CHARSMAP.finditer(text):
        # A panic would print a stack of Rust's before Python could answer it.
        if not _is_charsmap(found[1]):
            raise UserError(f"vocabulary file {where!r} is not a tokenizer.json: its precompiled_charsmap is damaged.")
    try:
        tokenizer = Library.from_str(text)
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of Rust's is no Exception, and all else is raised as a bare one
        reason = " ".join(str(error).split())
        reason = reason if len(reason) <= 200 else f"{reason[:197]}..."
        raise UserError(f"vocabulary file {where!r} is not a tokenizer.json: {reason}.") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def added(tokenizer: Library) -> dict[str, int]:
    """Return the tokens that are found in a text before it is cut, with their ids."""
    return {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}


def size_of(tokenizer: Library) -> int:
    """Return one more than the largest id."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _is_charsmap(encoded: str) -> bool:
    """Whether SentencePiece's normalisation is whole: a double-array trie (Darts) whose every path stays inside, and the texts that its leaves point into."""
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
        bases = bases[(bases >= len(units)) | ~seen[np.minimum(bases, len(units) - 1)]]  # words share their ends
    return True


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
