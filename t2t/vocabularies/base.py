"""The base class of all vocabularies."""

from __future__ import annotations

import abc
import itertools
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar, Self, cast

from t2t.errors import UserError
from t2t.limits import Configuration, ExtraIds, TokenId

MARKER = re.compile(r"<extra_id_(0|[1-9][0-9]*)>|(\[MASK\])")
"""Matches the text of a sentinel (its number is the first group) or of the mask (the second group)."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary(Configuration, abc.ABC):
    """A frozen description of a vocabulary. Its file is read on first use.

    Id 0 is padding, except in some `Tokenizer` files. The last `extra_ids` ids are sentinels. `<extra_id_0>` is the largest id, as in T5
    (https://arxiv.org/abs/1910.10683).

    extra_ids: number of sentinels.
    forced:    id that an encoder-decoder's output always begins with, after its start token (`forced_bos_token_id` of `transformers`: BART's `<s>`, or the
               language of a translation). None if there is none.
    ends:      ids that end generated text, in addition to `eos_id`. For example, LLaMA 3 ends a turn of a conversation with another token than a document.
    """

    added_later: ClassVar[frozenset[str]] = frozenset({"forced"})

    extra_ids: ExtraIds = 0
    ends: tuple[TokenId, ...] = ()
    forced: TokenId | None = None

    @property
    def of_targets(self) -> Vocabulary:
        """The vocabulary of targets and outputs. It has the same ids, and is another one only if it splits texts in another way (`Marian`)."""
        return self

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of ids, including the extra ids."""

    @property
    def pad_id(self) -> int | None:
        """The padding id. It is 0, except in some `Tokenizer` files. None if there is no padding token. Rows are always padded with 0."""
        return 0

    @property
    @abc.abstractmethod
    def eos_id(self) -> int:
        """The end-of-sequence id."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """All ids that end generated text, `eos_id` first."""
        return (self.eos_id, *(i for i in self.ends if i != self.eos_id))

    @property
    @abc.abstractmethod
    def unk_id(self) -> int:
        """The id of the unknown token."""

    @property
    def bos_id(self) -> int:
        """The start token of a decoder: 0, the padding id, unless the vocabulary defines one."""
        return 0

    @property
    def prepends_bos(self) -> bool:
        """Whether texts start with `bos_id`. If not, a language model that continues a text starts from its first token."""
        return True

    @property
    def adds_cls(self) -> bool:
        """Whether `encode` puts `cls_id` before every text, as BART's inputs and targets have it."""
        return False

    @property
    def mask_id(self) -> int | None:
        """The mask id for masked language modeling: the vocabulary's mask token, else its lowest extra id, else None."""
        return self.size - self.extra_ids if self.extra_ids else None

    @property
    def cls_id(self) -> int | None:
        """The id of BERT's [CLS], or None."""
        return None

    @property
    def sep_id(self) -> int | None:
        """The id of BERT's [SEP], or None."""
        return None

    @property
    def between(self) -> list[int]:
        """The ids between the two texts of a pair: [SEP], or EOS if the vocabulary does not have both [CLS] and [SEP]. RoBERTa has two such ids."""
        framed = self.cls_id is not None and self.sep_id is not None
        return [cast(int, self.sep_id) if framed else self.eos_id]

    def sentinel(self, index: int) -> int:
        """Return the id of `<extra_id_INDEX>`, counted down from the largest id. Raises UserError if there is no such sentinel."""
        if not 0 <= index < self.extra_ids:
            raise UserError(f"sentinel <extra_id_{index}>: {self} has {self.extra_ids} extra ids; increase extra_ids.")
        return self.size - 1 - index

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without EOS."""

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids of `text`. The strings `<extra_id_i>` and `[MASK]` in it become the ids of the sentinel and the mask.

        Raises:
          UserError: the vocabulary does not have the sentinel or a mask.
        """
        ids: list[int] = []
        end = 0
        for match in MARKER.finditer(text):
            ids += [*self.encode(text[end : match.start()]), self._marked(match)]
            end = match.end()
        return ids + self.encode(text[end:])

    def _marked(self, match: re.Match[str]) -> int:
        """Return the id for a match of `MARKER`. Raises UserError if there is none."""
        if match[1] is not None:
            if len(match[1]) > 9:
                raise UserError(
                    f"sentinel <extra_id_{match[1][:9]}...> of {len(match[1])} digits: {self} has {self.extra_ids} extra ids."
                )
            return self.sentinel(int(match[1]))
        if self.mask_id is None:
            raise UserError(f"[MASK] in the text: {self} has no mask; increase extra_ids.")
        return self.mask_id

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """Return the text of ids that are below `size` and include neither EOS nor padding."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` up to the first EOS, without padding. Sentinels become `<extra_id_i>`.

        Ids outside `size` count as unknown: a model's embedding may have more rows than the vocabulary has ids.
        """
        size, eos_id, unk_id = self.size, self.eos_id, self.unk_id
        kept = itertools.takewhile(lambda i: i != eos_id, (int(i) for i in ids))
        return self._decode([i if 0 <= i < size else unk_id for i in kept if i != self.pad_id])

    def decode_generated(self, ids: Iterable[int]) -> str:
        """Return the text of generated `ids` up to the first of `end_ids`, see `decode`."""
        ends = self.end_ids
        return self.decode(itertools.takewhile(lambda i: int(i) not in ends, ids))

    def files(self) -> tuple[str, ...]:
        """Return the paths of the files that the vocabulary reads."""
        return ()

    def identity(self) -> tuple[Hashable, ...]:
        """Return a key that is equal for two vocabularies if and only if their class, settings and file contents are equal. Paths do not matter."""
        return (type(self).__name__, *(getattr(self, field.name) for field in fields(self) if field.name != "path"))

    def relocated(self, directory: str) -> Self:
        """Copy the files into `directory`. Return the vocabulary with a path relative to it, to be stored in a configuration.

        `in_directory` makes the path usable again. Raises UserError if the directory already has a different file with that name.
        """
        return self

    def in_directory(self, directory: str) -> Self:
        """Return the vocabulary with its relative path resolved in `directory`."""
        return self
