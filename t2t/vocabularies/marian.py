"""Vocabulary of Marian's translation models: two SentencePiece models and one table of ids."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, get_args

from t2t.errors import UserError, nearest
from t2t.stored_paths import stored_path
from t2t.vocabularies.files import FileVocabulary, read, stamp

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

Side = Literal["inputs", "targets"]
TABLE = "vocab.json"
MODELS: dict[Side, str] = {"inputs": "source.spm", "targets": "target.spm"}
"""Names of the files in the directories of `transformers`. The models are in the directory of the table."""
EOS, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"

_LANGUAGE = re.compile(r">>.*?<<", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Marian(FileVocabulary):
    """The vocabulary of OPUS-MT (Tiedemann & Thottingal 2020): `vocab.json` has the ids, `source.spm` and `target.spm` beside it split texts into pieces.

    Pieces that the table lacks are unknown. A language at the start of a text, such as `>>fra<<`, is one token. Punctuation is not changed: the normalization
    of Moses, with which the models were trained, is not applied. Start and padding are the same token.

    path: the table, `vocab.json`. Its ids are 0, 1, 2, ... without gaps.
    side: the texts that `encode` splits: "inputs", by `source.spm`, or "targets", by `target.spm`. `of_targets` has the second.

    Raises UserError when a file is first read and is missing or damaged.
    """

    side: Side = "inputs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.side not in MODELS:
            raise UserError(f"unknown side {self.side!r} of a Marian vocabulary.{nearest(self.side, get_args(Side))}")

    @property
    def of_targets(self) -> Marian:
        """The same vocabulary for targets and outputs."""
        return replace(self, side="targets")

    def files(self) -> tuple[str, ...]:
        """Return the paths of the table and of both models."""
        return (self.path, *(self._model_path(side) for side in MODELS))

    def in_directory(self, directory: str) -> Self:
        """Return the vocabulary with its path resolved in `directory`. Raises UserError if one of its files is outside."""
        made = super().in_directory(directory)
        if "://" not in directory:
            for name in MODELS.values():
                stored_path(directory, str(PurePath(self.path).with_name(name)), where=f"the vocabulary of {directory}")
        return made

    @property
    def size(self) -> int:
        """Number of ids, including the extra ids."""
        return len(self._table.names) + self.extra_ids

    @property
    def pad_id(self) -> int:
        """The id of `<pad>`."""
        return self._table.ids[PADDING]

    @property
    def eos_id(self) -> int:
        """The id of `</s>`."""
        return self._table.ids[EOS]

    @property
    def unk_id(self) -> int:
        """The id of `<unk>`."""
        return self._table.ids[UNKNOWN]

    @property
    def bos_id(self) -> int:
        """The start token of the decoder, `<pad>`."""
        return self.pad_id

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that a text may begin with, as they are written in it."""
        return tuple(name for name in self._table.names if _LANGUAGE.fullmatch(name))

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text's pieces, and of the language before them if the text begins with one."""
        language = _LANGUAGE.match(text)
        before = [] if language is None else [language[0]]
        pieces = self._processor(self.side).encode(text[language.end() if language else 0 :], out_type=str)
        return [self._table.ids.get(piece, self.unk_id) for piece in (*before, *pieces)]

    def _decode(self, ids: list[int]) -> str:
        names, sentinel = self._table.names, self.size - 1
        pieces = [names[i] if i < len(names) else f"▁<extra_id_{sentinel - i}>" for i in ids]
        # Pieces of the other model keep their mark of a space.
        return self._processor("targets").decode_pieces(pieces).replace("▁", " ").strip()

    @property
    def _table(self) -> _Table:
        return _table(self.path, stamp(self.path))

    def _processor(self, side: Side) -> SentencePieceProcessor:
        path = self._model_path(side)
        return _processor(path, stamp(path))

    def _model_path(self, side: Side) -> str:
        folder, slash, _ = self.path.rpartition("/")
        return f"{folder}{slash}{MODELS[side]}"


class _Table(NamedTuple):
    ids: dict[str, int]
    names: list[str]


@functools.lru_cache(maxsize=4)
def _table(path: str, version: Any) -> _Table:
    try:
        ids = json.loads(read(path))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"vocabulary file {path!r} is not JSON: {error}.") from None
    if not isinstance(ids, dict) or sorted(map(repr, ids.values())) != sorted(map(repr, range(len(ids)))):
        raise UserError(
            f"vocabulary file {path!r} is not Marian's: expected an object of pieces with the ids 0, 1, 2, ..."
        )
    for token in (EOS, UNKNOWN, PADDING):
        if token not in ids:
            raise UserError(f"vocabulary file {path!r} has no token {token!r}.{nearest(token, ids)}")
    return _Table(ids, sorted(ids, key=ids.__getitem__))


@functools.lru_cache(maxsize=4)
def _processor(path: str, version: Any) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_proto=read(path))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"vocabulary file {path!r} is not a SentencePiece model: {' '.join(str(error).split())}."
        ) from None
