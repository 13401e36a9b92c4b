"""BERT's WordPiece vocabulary."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, cast

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from t2t.errors import UserError
from t2t.vocabularies.files import read, stamp
from t2t.vocabularies.library import LibraryVocabulary, added, load


@dataclass(frozen=True, kw_only=True)
class WordPiece(LibraryVocabulary):
    """BERT's WordPiece (https://arxiv.org/abs/1810.04805): a `vocab.txt`, or a `tokenizer.json` of the `tokenizers` library.

    path:      the file. A `.json` file is read as a tokenizer.json, any other file has one token per line. [PAD] must be id 0.
    lowercase: lowercase the text and strip accents ("uncased"). Ignored for a tokenizer.json, which defines this itself.
    """

    lowercase: bool = True

    @property
    def _tokenizer(self) -> Tokenizer:
        return _wordpiece(self.path, stamp(self.path), self.lowercase, self.extra_ids)

    def _special(self, token: str) -> int:
        return cast(int, self._tokenizer.token_to_id(token))

    @property
    def eos_id(self) -> int:
        """The id of [SEP]."""
        return self._special("[SEP]")

    @property
    def unk_id(self) -> int:
        """The id of [UNK]."""
        return self._special("[UNK]")

    @property
    def bos_id(self) -> int:
        """The id of [CLS]."""
        return self._special("[CLS]")

    @property
    def mask_id(self) -> int | None:
        """The id of [MASK]."""
        return self._special("[MASK]")

    @property
    def cls_id(self) -> int | None:
        """The id of [CLS]."""
        return self._special("[CLS]")

    @property
    def sep_id(self) -> int | None:
        """The id of [SEP]."""
        return self._special("[SEP]")

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i != self.cls_id], skip_special_tokens=False)


def _bert(tokenizer: Tokenizer, lowercase: bool) -> None:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")


@functools.lru_cache(maxsize=16)
def _wordpiece(path: str, version: Any, lowercase: bool, extra_ids: int) -> Tokenizer:
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    if path.endswith(".json"):
        tokenizer = load(read(path), path)
    else:
        tokens = tokens_of(path)
        missing = [token for token in special if token not in tokens]
        if missing:
            raise UserError(
                f"vocabulary file {path!r} lacks {', '.join(missing)}; a BERT vocab.txt has one token per line."
            )
        tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]", max_input_chars_per_word=100))
        _bert(tokenizer, lowercase)
    missing = [token for token in special if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(f"vocabulary file {path!r} lacks {', '.join(missing)}; WordPiece needs {', '.join(special)}.")
    if tokenizer.token_to_id("[PAD]") != 0:
        raise UserError(f"vocabulary file {path!r}: [PAD] is id {tokenizer.token_to_id('[PAD]')}, not 0.")
    # Tokens that are already added keep their flags, for example which whitespace belongs to the mask.
    already_added = added(tokenizer)
    tokenizer.add_special_tokens([token for token in special if token not in already_added])
    sentinels: list[str | AddedToken] = [
        AddedToken(f"<extra_id_{i}>", special=True, normalized=False) for i in reversed(range(extra_ids))
    ]
    tokenizer.add_special_tokens(sentinels)
    return tokenizer


def tokens_of(path: str) -> dict[str, int]:
    """Return the tokens of a vocab.txt with their ids. Raises UserError if it is not UTF-8 text, or has a token twice."""
    try:
        content = read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary file {path!r} is not UTF-8 text (byte {error.start}).") from None
    tokens: dict[str, int] = {}
    for number, line in enumerate(content.removesuffix("\n").split("\n")):
        token = line.removesuffix("\r")
        if token in tokens:
            raise UserError(f"{path}:{number + 1}: duplicate token {token!r}, first on line {tokens[token] + 1}.")
        tokens[token] = number
    return tokens
