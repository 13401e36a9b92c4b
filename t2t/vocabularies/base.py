"""What every vocabulary offers."""

from __future__ import annotations

import abc
import itertools
import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, fields
from typing import Self, cast

from t2t.errors import UserError
from t2t.limits import Configuration, ExtraIds, TokenId

MARKER = re.compile(r"<extra_id_(0|[1-9][0-9]*)>|(\[MASK\])")
"""What stands in a text for a sentinel (its number is the first group) or for the mask."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary(Configuration, abc.ABC):
    """A frozen description of a vocabulary; what it needs is read from its file on first use.

    Id 0 is padding, but in a `Tokenizer` made elsewhere. The last `extra_ids` ids are sentinels, `<extra_id_0>` being the largest id, as in T5
    (https://arxiv.org/abs/1910.10683).

    ends: ids that end what is generated besides `eos_id`: LLaMA 3 ends a turn of a conversation with another token than a text.
    """

    extra_ids: ExtraIds = 0
    ends: tuple[TokenId, ...] = ()

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of ids, extra ids included."""

    @property
    def pad_id(self) -> int | None:
        """Padding, 0 but in a vocabulary made elsewhere; None where every id is a word. Rows are filled with 0 in any case."""
        return 0

    @property
    @abc.abstractmethod
    def eos_id(self) -> int:
        """End of a sequence."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """All ids that end what is generated, `eos_id` first."""
        return (self.eos_id, *(i for i in self.ends if i != self.eos_id))

    @property
    @abc.abstractmethod
    def unk_id(self) -> int:
        """What is not in the vocabulary."""

    @property
    def bos_id(self) -> int:
        """What a decoder starts from: padding where the vocabulary has nothing of its own."""
        return 0

    @property
    def prepends_bos(self) -> bool:
        """Whether a text by itself begins with `bos_id`; a language model that goes on with one otherwise starts from its first token."""
        return True

    @property
    def mask_id(self) -> int | None:
        """The mask of masked language modelling: the vocabulary's own, else its lowest extra id, else None."""
        return self.size - self.extra_ids if self.extra_ids else None

    @property
    def cls_id(self) -> int | None:
        """BERT's [CLS], or None."""
        return None

    @property
    def sep_id(self) -> int | None:
        """BERT's [SEP], or None."""
        return None

    @property
    def between(self) -> list[int]:
        """The ids between the two texts of a pair: [SEP], or EOS where there is no frame of [CLS] and [SEP]. RoBERTa's tokenizers have two."""
        framed = self.cls_id is not None and self.sep_id is not None
        return [cast(int, self.sep_id) if framed else self.eos_id]

    def sentinel(self, index: int) -> int:
        """Return the id of `<extra_id_INDEX>`, counting down from the largest id. Raises UserError beyond `extra_ids`."""
        if not 0 <= index < self.extra_ids:
            raise UserError(
                f"sentinel <extra_id_{index}>: {self} has {self.extra_ids} extra ids; give it more extra_ids."
            )
        return self.size - 1 - index

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, without EOS."""

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids of `text` in which `<extra_id_i>` and `[MASK]`, where written out, stand for their ids.

        Raises:
          UserError: a sentinel or mask that the vocabulary does not have.
        """
        ids: list[int] = []
        end = 0
        for match in MARKER.finditer(text):
            ids += [*self.encode(text[end : match.start()]), self._marked(match)]
            end = match.end()
        return ids + self.encode(text[end:])

    def _marked(self, match: re.Match[str]) -> int:
        """Return the id that a match of `MARKER` stands for. Raises UserError where there is none."""
        if match[1] is not None:
            if len(match[1]) > 9:
                raise UserError(
                    f"sentinel <extra_id_{match[1][:9]}...> of {len(match[1])} digits: {self} has {self.extra_ids} extra ids."
                )
            return self.sentinel(int(match[1]))
        if self.mask_id is None:
            raise UserError(f"[MASK] in the text: {self} has no mask; give it extra_ids.")
        return self.mask_id

    @abc.abstractmethod
    def _decode(self, ids: list[int]) -> str:
        """Return the text of ids that hold neither EOS nor padding and are within `size`."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids` up to the first EOS, without padding; sentinels print as `<extra_id_i>`.

        Ids beyond `size` (a model's embedding may be rounded up) count as unknown.
        """
        size, eos_id, unk_id = self.size, self.eos_id, self.unk_id
        kept = itertools.takewhile(lambda i: i != eos_id, (int(i) for i in ids))
        return self._decode([i if 0 <= i < size else unk_id for i in kept if i != self.pad_id])

    def decode_generated(self, ids: Iterable[int]) -> str:
        """Return the text of generated `ids` up to the first that ends them, as `decode` does."""
        ends = self.end_ids
        return self.decode(itertools.takewhile(lambda i: int(i) not in ends, ids))

    def files(self) -> tuple[str, ...]:
        """Return the paths of the files that the vocabulary reads."""
        return ()

    def identity(self) -> tuple[Hashable, ...]:
        """Return what is equal for two vocabularies if and only if they are one: the kind, the settings and the files' content, wherever the files are."""
        return (type(self).__name__, *(getattr(self, field.name) for field in fields(self) if field.name != "path"))

    def relocated(self, directory: str) -> Self:
        """Copy the files into `directory`; return the vocabulary with its path relative to that directory.

        Such a vocabulary is for writing down; `in_directory` makes it readable. Raises UserError where the directory
        already holds another file of that name.
        """
        return self

    def in_directory(self, directory: str) -> Self:
        """Return the vocabulary with a relative path taken as relative to `directory`."""
        return self
