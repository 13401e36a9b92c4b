"""Text <-> token ids without TensorFlow: bytes, SentencePiece, WordPiece.

Ids equal those of SeqIO's vocabulary of the same kind; `t2t.data.vocabularies` crosses over.
"""

from __future__ import annotations

import abc
import functools
import itertools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self, cast

from etils import epath

from t2t.errors import UserError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

_MARKER = re.compile(r"<extra_id_(\d+)>|(\[MASK\])")


@dataclass(frozen=True, kw_only=True)
class Vocabulary(abc.ABC):
    """A frozen description of a vocabulary; what it needs is read from its file on first use.

    Id 0 is padding. The last `extra_ids` ids are sentinels, `<extra_id_0>` being the largest id, as in T5
    (https://arxiv.org/abs/1910.10683).
    """

    extra_ids: int = 0

    def __post_init__(self) -> None:
        if self.extra_ids < 0:
            raise UserError(f"extra_ids={self.extra_ids} of {type(self).__name__}: must be 0 or more.")

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of ids, extra ids included."""

    @property
    def pad_id(self) -> int:
        """Padding, always 0."""
        return 0

    @property
    @abc.abstractmethod
    def eos_id(self) -> int:
        """End of a sequence."""

    @property
    @abc.abstractmethod
    def unk_id(self) -> int:
        """What is not in the vocabulary."""

    @property
    def bos_id(self) -> int:
        """What a decoder starts from: padding where the vocabulary has nothing of its own."""
        return self.pad_id

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
        for match in _MARKER.finditer(text):
            ids += self.encode(text[end : match.start()])
            if match[1] is not None:
                ids.append(self.sentinel(int(match[1])))
            elif self.mask_id is not None:
                ids.append(self.mask_id)
            else:
                raise UserError(f"[MASK] in the text: {self} has no mask; give it extra_ids.")
            end = match.end()
        return ids + self.encode(text[end:])

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

    def files(self) -> tuple[str, ...]:
        """Return the paths of the files that the vocabulary reads."""
        return ()

    def relocated(self, directory: str) -> Self:
        """Copy the files into `directory`; return the vocabulary with its path relative to that directory.

        Such a vocabulary is for writing down; `in_directory` makes it readable. Raises UserError where the directory
        already holds another file of that name.
        """
        return self

    def in_directory(self, directory: str) -> Self:
        """Return the vocabulary with a relative path taken as relative to `directory`."""
        return self


@dataclass(frozen=True, kw_only=True)
class Bytes(Vocabulary):
    """UTF-8 bytes: id = byte + 3, after padding 0, EOS 1 and unknown 2, as in ByT5 (https://arxiv.org/abs/2105.13626)."""

    extra_ids: int = 100

    @property
    def size(self) -> int:
        """259 and the extra ids."""
        return 259 + self.extra_ids

    @property
    def eos_id(self) -> int:
        """1."""
        return 1

    @property
    def unk_id(self) -> int:
        """2; no text encodes to it."""
        return 2

    def encode(self, text: str) -> list[int]:
        """Return byte values + 3. Raises UserError for text that is not valid Unicode (lone surrogates)."""
        try:
            return [byte + 3 for byte in text.encode("utf-8")]
        except UnicodeEncodeError as error:
            raise UserError(f"text {text[:40]!r} is not valid Unicode: {error.reason} at {error.start}.") from None

    def _decode(self, ids: list[int]) -> str:
        parts: list[str] = []
        for is_byte, run in itertools.groupby(ids, key=lambda i: 3 <= i < 259):
            if is_byte:
                parts.append(bytes(i - 3 for i in run).decode("utf-8", errors="ignore"))
            else:
                parts.extend(f"<extra_id_{self.size - 1 - i}>" for i in run if i >= 259)
        return "".join(parts)


@dataclass(frozen=True, kw_only=True)
class _FileVocabulary(Vocabulary):
    path: str

    def files(self) -> tuple[str, ...]:
        return (self.path,)

    def relocated(self, directory: str) -> Self:
        content = _read(self.path)
        copy = epath.Path(directory) / epath.Path(self.path).name
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            partial = copy.parent / (copy.name + ".partial")
            partial.write_bytes(content)
            partial.replace(copy)
        elif copy.read_bytes() != content:
            raise UserError(
                f"vocabulary {self.path!r}: {str(copy)!r} is there already and differs; give one of the two another name."
            )
        return replace(self, path=copy.name)

    def in_directory(self, directory: str) -> Self:
        return replace(self, path=str(epath.Path(directory) / self.path))


@dataclass(frozen=True, kw_only=True)
class SentencePiece(_FileVocabulary):
    """A SentencePiece model file (https://arxiv.org/abs/1808.06226), `spiece.model` of T5 for example.

    path: the model file. It must have padding as id 0, and an EOS; `t2t vocab` trains such a model.
    """

    @property
    def _processor(self) -> SentencePieceProcessor:
        return _sentencepiece(self.path, _stamp(self.path), self.extra_ids)

    @property
    def size(self) -> int:
        """Pieces of the model and the extra ids."""
        return self._processor.get_piece_size()

    @property
    def eos_id(self) -> int:
        """The model's EOS, 1 in T5's."""
        return self._processor.eos_id()

    @property
    def unk_id(self) -> int:
        """The model's unknown piece, 2 in T5's."""
        return self._processor.unk_id()

    @property
    def bos_id(self) -> int:
        """The model's beginning of a sequence; padding where it has none."""
        own = self._processor.bos_id()
        return own if own >= 0 else self.pad_id

    @property
    def mask_id(self) -> int | None:
        """The piece [MASK] or <mask>, else the lowest extra id, else None."""
        for piece in ("[MASK]", "<mask>"):
            found = self._processor.piece_to_id(piece)
            if found != self.unk_id:
                return found
        return super().mask_id

    def encode(self, text: str) -> list[int]:
        """Return the model's ids; `<extra_id_i>` at the start of a word becomes its sentinel, as in SeqIO."""
        return self._processor.encode(text)

    def _decode(self, ids: list[int]) -> str:
        return self._processor.decode(ids)


@dataclass(frozen=True, kw_only=True)
class WordPiece(_FileVocabulary):
    """BERT's WordPiece (https://arxiv.org/abs/1810.04805): a `vocab.txt`, or a `tokenizer.json` of the `tokenizers` library.

    path:      the file; a `.json` is read as a tokenizer, anything else as one token a line. [PAD] must be id 0.
    lowercase: lower the text and strip accents ("uncased"). A tokenizer.json says that itself and wins.
    """

    lowercase: bool = True

    @property
    def _tokenizer(self) -> Tokenizer:
        return _wordpiece(self.path, _stamp(self.path), self.lowercase, self.extra_ids)

    def _special(self, token: str) -> int:
        return cast(int, self._tokenizer.token_to_id(token))

    @property
    def size(self) -> int:
        """Tokens of the file and the extra ids."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def eos_id(self) -> int:
        """[SEP]."""
        return self._special("[SEP]")

    @property
    def unk_id(self) -> int:
        """[UNK]."""
        return self._special("[UNK]")

    @property
    def bos_id(self) -> int:
        """[CLS]."""
        return self._special("[CLS]")

    @property
    def mask_id(self) -> int | None:
        """[MASK]."""
        return self._special("[MASK]")

    @property
    def cls_id(self) -> int | None:
        """[CLS]."""
        return self._special("[CLS]")

    @property
    def sep_id(self) -> int | None:
        """[SEP]."""
        return self._special("[SEP]")

    def encode(self, text: str) -> list[int]:
        """Return the ids without [CLS] and [SEP]; special tokens written out in the text stand for themselves."""
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i != self.cls_id], skip_special_tokens=False)


def _read(path: str) -> bytes:
    try:
        return epath.Path(path).read_bytes()
    except (OSError, ImportError) as error:
        raise UserError(
            f"vocabulary file {path!r} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from None


def _stamp(path: str) -> Any:
    """Return what changes when the file does, so that a rewritten file is read again."""
    if "://" in path:
        return None
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"vocabulary file {path!r} cannot be read: {error.strerror or error}.") from None
    return stat.st_size, stat.st_mtime_ns


@functools.lru_cache(maxsize=16)
def _sentencepiece(path: str, stamp: Any, extra_ids: int) -> SentencePieceProcessor:
    from google.protobuf.message import DecodeError
    from sentencepiece import SentencePieceProcessor
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    try:
        model = ModelProto.FromString(_read(path))
    except DecodeError:
        model = None
    if model is None or not model.pieces:
        raise UserError(f"vocabulary file {path!r} is not a SentencePiece model.")
    # The leading "▁" and the order are SeqIO's, so that its ids and ours are the same.
    for index in reversed(range(extra_ids)):
        model.pieces.add(piece=f"▁<extra_id_{index}>", score=0.0, type=4)  # 4: USER_DEFINED
    processor = SentencePieceProcessor(model_proto=model.SerializeToString())
    if processor.pad_id() != 0:
        raise UserError(
            f"vocabulary file {path!r}: id 0 is {processor.id_to_piece(0)!r} and not padding; train it with pad_id=0 (t2t vocab does)."
        )
    if processor.eos_id() < 0:
        raise UserError(
            f"vocabulary file {path!r} has no end-of-sequence piece; train it with eos_id=1 (t2t vocab does)."
        )
    return processor


def _bert(tokenizer: Tokenizer, lowercase: bool) -> None:
    from tokenizers import decoders, normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")


@functools.lru_cache(maxsize=16)
def _wordpiece(path: str, stamp: Any, lowercase: bool, extra_ids: int) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, models

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    try:
        content = _read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"vocabulary file {path!r} is not UTF-8 text (byte {error.start}).") from None
    if path.endswith(".json"):
        try:
            tokenizer = Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"vocabulary file {path!r} is not a tokenizer.json: {error}.") from None
    else:
        tokens = _tokens(path, content)
        missing = [token for token in special if token not in tokens]
        if missing:
            raise UserError(
                f"vocabulary file {path!r} lacks {', '.join(missing)}; a BERT vocab.txt has one token a line."
            )
        tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]", max_input_chars_per_word=100))
        _bert(tokenizer, lowercase)
    missing = [token for token in special if tokenizer.token_to_id(token) is None]
    if missing:
        raise UserError(f"vocabulary file {path!r} lacks {', '.join(missing)}; WordPiece needs {', '.join(special)}.")
    if tokenizer.token_to_id("[PAD]") != 0:
        raise UserError(f"vocabulary file {path!r}: [PAD] is id {tokenizer.token_to_id('[PAD]')}, not 0.")
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.add_special_tokens(list(special))
    sentinels: list[str | AddedToken] = [
        AddedToken(f"<extra_id_{i}>", special=True, normalized=False) for i in reversed(range(extra_ids))
    ]
    tokenizer.add_special_tokens(sentinels)
    return tokenizer


def _tokens(path: str, content: str) -> dict[str, int]:
    tokens: dict[str, int] = {}
    for number, line in enumerate(content.removesuffix("\n").split("\n")):
        token = line.removesuffix("\r")
        if token in tokens:
            raise UserError(f"{path}:{number + 1}: token {token!r} again, first on line {tokens[token] + 1}.")
        tokens[token] = number
    return tokens
