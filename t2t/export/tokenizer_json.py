"""Conversion of a vocabulary to a tokenizer.json that gives the same ids in `transformers`, start and end tokens included."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, Vocabulary, WordPiece
from t2t.vocabularies.files import read

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""Types of pieces in SentencePiece."""
_CERTAIN = 100.0
"""Score of user-defined pieces, high enough that they are always chosen."""


def frame(vocabulary: Vocabulary, kind: Kind) -> tuple[list[int], list[int]]:
    """Return the ids before and after a text: a decoder's start token, an encoder's [CLS] and [SEP] or EOS, an encoder-decoder's EOS,
    after its [CLS] if the vocabulary adds it."""
    if kind == "decoder":
        return ([vocabulary.bos_id] if vocabulary.prepends_bos else []), []
    if kind == "encoder" and vocabulary.cls_id is not None and vocabulary.sep_id is not None:
        return [vocabulary.cls_id], [vocabulary.sep_id]
    return [vocabulary.cls_id] if vocabulary.adds_cls and vocabulary.cls_id is not None else [], [vocabulary.eos_id]


def framed(vocabulary: Vocabulary, kind: Kind, text: str) -> list[int]:
    """Return the ids of a text with the special tokens for a model of that kind."""
    before, after = frame(vocabulary, kind)
    return [*([] if vocabulary.adds_cls else before), *vocabulary.encode_marked(text), *after]


def library_of(vocabulary: Vocabulary) -> Library:
    """Return the vocabulary as a tokenizer of the `tokenizers` library that adds no special tokens.

    Raises UserError if the library has no equivalent tokenizer.
    """
    if isinstance(vocabulary, Bytes):
        library = _bytes()
    elif isinstance(vocabulary, SentencePiece):
        library = _sentencepiece(vocabulary)
    elif isinstance(vocabulary, WordPiece | Tokenizer):
        return vocabulary.library()
    else:
        raise UserError(
            f"vocabulary {vocabulary} cannot be written for transformers; supported: Bytes, SentencePiece, WordPiece, Tokenizer"
        )
    # As in SeqIO, a sentinel includes the space before it, except for Bytes.
    lstrip = isinstance(vocabulary, SentencePiece)
    library.add_special_tokens(
        [
            AddedToken(f"<extra_id_{i}>", special=True, normalized=False, lstrip=lstrip)
            for i in reversed(range(vocabulary.extra_ids))
        ]
    )
    return library


def framed_library(vocabulary: Vocabulary, kind: Kind) -> Library:
    """Return the vocabulary as a tokenizer that adds the tokens of `frame`. In pairs for an encoder, the second text has type 1."""
    library = library_of(vocabulary)
    before, after = ([_token(library, i) for i in ids] for ids in frame(vocabulary, kind))
    second = int(kind == "encoder")
    between = [_token(library, i) for i in vocabulary.between] if kind == "encoder" else after
    library.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *between, f"$B:{second}", *(f"{token}:{second}" for token in after)],
        special_tokens=[(token, library.token_to_id(token)) for token in dict.fromkeys([*before, *after])],
    )
    return library


def _token(library: Library, number: int) -> str:
    token = library.id_to_token(number)
    assert token is not None, f"id {number} has no token"
    return token


def _bytes() -> Library:
    # Byte-level BPE without merges. Its 256 characters are in the order of the bytes.
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = itertools.count(256)
    letters = [chr(byte if byte in printable else next(others)) for byte in range(256)]
    names = ["<pad>", "</s>", "<unk>", *letters]
    library = Library(models.BPE({name: i for i, name in enumerate(names)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(names[:3])
    return library


def _sentencepiece(vocabulary: SentencePiece) -> Library:
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    _ = vocabulary.size  # Raises UserError if the file is invalid.
    proto = ModelProto.FromString(read(vocabulary.path))
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    if trainer.treat_whitespace_as_suffix or trainer.model_type not in (1, 2):
        raise UserError(
            f"vocabulary file {vocabulary.path!r}: only SentencePiece models of type unigram or bpe with spaces before words can be written for transformers"
        )
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    ids = {name: i for i, (name, _, _) in enumerate(pieces)}
    if trainer.model_type == 1:
        scored = [(name, _CERTAIN if kind == _USER_DEFINED else score) for name, score, kind in pieces]
        library = Library(models.Unigram(scored, trainer.unk_id, trainer.byte_fallback))
    else:
        unknown = pieces[trainer.unk_id][0]
        library = Library(
            models.BPE(
                ids, merges_of(pieces, ids), unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback
            )
        )
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        if "nfkc" in spec.name:
            # The library looks up a letter with all its marks, SentencePiece the longest known part. After NFC, both find the same.
            steps.append(normalizers.NFC())
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip(left=False, right=True)]
    if steps:
        library.normalizer = normalizers.Sequence(steps)
    scheme = "first" if spec.add_dummy_prefix else "never"
    library.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    library.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name, _, kind in pieces if kind in (_UNKNOWN, _CONTROL)]
    )
    mask = None if vocabulary.mask_id is None or vocabulary.mask_id >= len(pieces) else pieces[vocabulary.mask_id][0]
    if mask is not None:
        library.add_special_tokens([AddedToken(mask, special=True, normalized=False, lstrip=True)])
    return library


def merges_of(pieces: Sequence[tuple[str, float, int]], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return the pairs of pieces that merge into a piece, best score first: in SentencePiece BPE the scores give the order of merges.

    pieces: text, score and type of each piece. Only those of the type NORMAL are merged.
    """
    merges = []
    for name, score, kind in pieces:
        if kind == _NORMAL:
            halves = [(name[:i], name[i:]) for i in range(1, len(name))]
            known = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
            merges += [(score, pair) for pair in sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return [pair for _, pair in sorted(merges, key=lambda merge: -merge[0])]
