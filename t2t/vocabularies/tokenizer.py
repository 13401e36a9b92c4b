"""Vocabulary from any tokenizer.json: byte-level BPE (GPT-2, SmolLM2, LLaMA 3), BPE from SentencePiece (LLaMA 2, Mistral), Unigram (ALBERT)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from t2t.errors import UserError, nearest
from t2t.vocabularies.files import read, stamp
from t2t.vocabularies.library import LibraryVocabulary, added, load, size_of


@dataclass(frozen=True, kw_only=True)
class Tokenizer(LibraryVocabulary):
    """A `tokenizer.json` of the `tokenizers` library. Its ids are unchanged, so id 0 may be an ordinary token.

    bos, eos, unk, pad, mask, cls, sep: the special tokens as they are written in the file, None if there is none. `eos` is required.
    add_bos: whether texts start with `bos` (LLaMA) or not (GPT-2).
    add_cls: whether `encode` puts `cls` before every text of an encoder-decoder, inputs and targets (BART).
    """

    added_later: ClassVar[frozenset[str]] = LibraryVocabulary.added_later | {"add_cls"}

    eos: str
    bos: str | None = None
    unk: str | None = None
    pad: str | None = None
    mask: str | None = None
    cls: str | None = None
    sep: str | None = None
    add_bos: bool = False
    add_cls: bool = False

    @property
    def _tokenizer(self) -> Library:
        named = tuple(
            token for token in (self.eos, self.bos, self.unk, self.pad, self.mask, self.cls, self.sep) if token
        )
        return _load(self.path, stamp(self.path), named, self.extra_ids)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._tokenizer.token_to_id(token)

    @property
    def pad_id(self) -> int | None:
        """The id of `pad`. None if there is no padding token, or if it is also the EOS, as in GPT-2."""
        found = self._id(self.pad)
        return None if found == self.eos_id else found

    @property
    def eos_id(self) -> int:
        """The id of `eos`."""
        found = self._id(self.eos)
        assert found is not None
        return found

    @property
    def unk_id(self) -> int:
        """The id of `unk`, or the EOS id if the tokenizer has no unknown token."""
        found = self._id(self.unk)
        return self.eos_id if found is None else found

    @property
    def bos_id(self) -> int:
        """The id of `bos`. If there is none, the EOS id, which separates documents."""
        found = self._id(self.bos)
        return self.eos_id if found is None else found

    @property
    def prepends_bos(self) -> bool:
        """Whether texts start with `bos` (`add_bos`)."""
        return self.add_bos

    @property
    def adds_cls(self) -> bool:
        """Whether `encode` puts `cls_id` before every text (`add_cls`)."""
        return self.add_cls

    def encode(self, text: str) -> list[int]:
        """Return the ids without BOS and EOS, after that of `cls` if `add_cls` is True. Special tokens in the text become their ids."""
        before = [self.cls_id] if self.add_cls and self.cls_id is not None else []
        return before + super().encode(text)

    @property
    def mask_id(self) -> int | None:
        """The id of `mask`, else the lowest extra id, else None."""
        found = self._id(self.mask)
        return super().mask_id if found is None else found

    @property
    def cls_id(self) -> int | None:
        """The id of `cls`, or None."""
        return self._id(self.cls)

    @property
    def sep_id(self) -> int | None:
        """The id of `sep`, or None."""
        return self._id(self.sep)

    @property
    def between(self) -> list[int]:
        """The ids that the file puts between the two texts of a pair, if they are all `sep`. Otherwise see `Vocabulary.between`."""
        pair = self._tokenizer.encode("a", "b", add_special_tokens=True)
        texts = pair.sequence_ids
        if self.cls_id is None or self.sep_id is None or 0 not in texts or 1 not in texts:
            return super().between
        last = max(i for i, text in enumerate(texts) if text == 0)
        found = pair.ids[last + 1 : texts.index(1)]
        return found if found and set(found) == {self.sep_id} else super().between

    def sentinel(self, index: int) -> int:
        """Return the id of `<extra_id_INDEX>`: the one in the file if it has this token, otherwise see `Vocabulary.sentinel`."""
        found = self._tokenizer.token_to_id(f"<extra_id_{index}>")
        return super().sentinel(index) if found is None else found

    def _decode(self, ids: list[int]) -> str:
        dropped = {self.cls_id, self._id(self.bos)}
        return self._tokenizer.decode([i for i in ids if i not in dropped], skip_special_tokens=False)


@functools.lru_cache(maxsize=16)
def _load(path: str, version: Any, named: tuple[str, ...], extra_ids: int) -> Library:
    tokenizer = load(read(path), path)
    known = tokenizer.get_vocab(with_added_tokens=True)
    for token in named:
        if token not in known:
            raise UserError(f"vocabulary file {path!r} has no token {token!r}.{nearest(token, known)}")
    # As in `transformers`, the named special tokens are never split.
    already_added = added(tokenizer)
    tokenizer.add_special_tokens([token for token in dict.fromkeys(named) if token not in already_added])
    size = size_of(tokenizer)
    missing = [f"<extra_id_{i}>" for i in reversed(range(extra_ids)) if f"<extra_id_{i}>" not in known]
    sentinels: list[str | AddedToken] = [AddedToken(name, special=True, normalized=False) for name in missing]
    tokenizer.add_special_tokens(sentinels)
    if size_of(tokenizer) != size + len(missing):
        raise UserError(
            f"vocabulary file {path!r} has gaps in its ids: sentinels cannot be added (extra_ids={extra_ids})."
        )
    return tokenizer
