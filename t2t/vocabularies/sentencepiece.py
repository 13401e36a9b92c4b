"""SentencePiece vocabulary."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from t2t.errors import UserError
from t2t.vocabularies.base import MARKER
from t2t.vocabularies.files import FileVocabulary, read, stamp

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor


_MASK = "<extra_id_mask>"
"""The piece added for the mask, with an id after all others."""


@dataclass(frozen=True, kw_only=True)
class SentencePiece(FileVocabulary):
    """A SentencePiece model file (https://arxiv.org/abs/1808.06226), for example `spiece.model` of T5.

    path: the model file. Id 0 must be padding, and the model must have an EOS piece. `t2t vocab` trains such models.
    """

    @property
    def _processor(self) -> SentencePieceProcessor:
        return _sentencepiece(self.path, stamp(self.path), self.extra_ids)

    @property
    def size(self) -> int:
        """Number of pieces of the model, including the extra ids."""
        return self._processor.get_piece_size()

    @property
    def eos_id(self) -> int:
        """The model's EOS id, 1 in T5."""
        return self._processor.eos_id()

    @property
    def unk_id(self) -> int:
        """The id of the model's unknown piece, 2 in T5."""
        return self._processor.unk_id()

    @property
    def bos_id(self) -> int:
        """The model's BOS id, or 0 (padding) if it has none."""
        found = self._processor.bos_id()
        return found if found >= 0 else 0

    @property
    def mask_id(self) -> int | None:
        """The id of the piece [MASK] or <mask>, else the lowest extra id, else None."""
        for piece in ("[MASK]", "<mask>"):
            found = self._processor.piece_to_id(piece)
            if found != self.unk_id:
                return found
        return super().mask_id

    def encode(self, text: str) -> list[int]:
        """Return the model's ids. `<extra_id_i>` at the start of a word becomes its sentinel, as in SeqIO."""
        return self._processor.encode(text)

    def encode_marked(self, text: str) -> list[int]:
        """Return the ids that SeqIO gives for sentinels at the start of words. The mask, and markers without a space before them, are treated the same.

        Text after a marker does not start a new word: in "<extra_id_0>.", the "." has no space before it.
        """
        wanted: list[int] = []

        def replace(match: re.Match[str]) -> str:
            wanted.append(self._marked(match))
            name = _MASK if match[2] else match[0]
            return name if match.start() == 0 or text[match.start() - 1].isspace() else f" {name}"

        marked = MARKER.sub(replace, text)
        if not wanted:
            return self.encode(text)
        processor = _sentencepiece(self.path, stamp(self.path), self.extra_ids, True)
        places: dict[int, Any] = {self.size: self.mask_id}
        ids: list[int] = [places.get(i, i) for i in processor.encode(marked)]
        special = set(wanted)
        found = [i for i in ids if i in special]
        # This fails for models that do not prepend a space to texts, or that change the markers: encode the parts between them.
        return ids if found == wanted else super().encode_marked(text)

    def _decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)


@functools.lru_cache(maxsize=16)
def _sentencepiece(path: str, version: Any, extra_ids: int, mask: bool = False) -> SentencePieceProcessor:
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    try:
        model = ModelProto.FromString(read(path))
    except DecodeError:
        model = None
    if model is None or not model.pieces:
        raise UserError(f"vocabulary file {path!r} is not a SentencePiece model.")
    # The leading "▁" and the order are the same as in SeqIO, so that the ids are equal.
    for index in reversed(range(extra_ids)):
        model.pieces.add(piece=f"▁<extra_id_{index}>", score=0.0, type=4)  # 4: USER_DEFINED
    if mask:  # used by encode_marked only; its id comes after all others
        model.pieces.add(piece=f"▁{_MASK}", score=0.0, type=4)
    try:
        processor = SentencePieceProcessor(model_proto=model.SerializeToString())
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"vocabulary file {path!r} is not a SentencePiece model: {' '.join(str(error).split())}."
        ) from None
    if processor.pad_id() != 0:
        raise UserError(
            f"vocabulary file {path!r}: id 0 is {processor.id_to_piece(0)!r} and not padding; train the model with pad_id=0, as t2t vocab does."
        )
    if processor.eos_id() < 0:
        raise UserError(
            f"vocabulary file {path!r} has no end-of-sequence piece; train the model with eos_id=1, as t2t vocab does."
        )
    return processor
