"""The tokenizer.json of a vocabulary: with it alone `transformers` gives the ids that this stack feeds a model, start and end tokens included."""

from __future__ import annotations

import itertools

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, Vocabulary, WordPiece
from t2t.vocabularies.files import read

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""Types of SentencePiece's pieces."""
_CERTAIN = 100.0
"""The score of a piece that is taken wherever it stands."""


def frame(vocabulary: Vocabulary, kind: Kind) -> tuple[list[int], list[int]]:
    """Return the ids that stand before and behind a text: what a decoder begins with, an encoder's [CLS] and [SEP] or EOS, an encoder-decoder's EOS."""
    if kind == "decoder":
        return ([vocabulary.bos_id] if vocabulary.prepends_bos else []), []
    if kind == "encoder" and vocabulary.cls_id is not None and vocabulary.sep_id is not None:
        return [vocabulary.cls_id], [vocabulary.sep_id]
    return [], [vocabulary.eos_id]


def framed(vocabulary: Vocabulary, kind: Kind, text: str) -> list[int]:
    """Return the ids of a text as a model of that kind is asked."""
    before, behind = frame(vocabulary, kind)
    return [*before, *vocabulary.encode_marked(text), *behind]


def library_of(vocabulary: Vocabulary) -> Library:
    """Return the vocabulary as a tokenizer of the `tokenizers` library, nothing put around a text.

    Raises UserError for a vocabulary that has no like there.
    """
    if isinstance(vocabulary, Bytes):
        made = _bytes()
    elif isinstance(vocabulary, SentencePiece):
        made = _sentencepiece(vocabulary)
    elif isinstance(vocabulary, WordPiece | Tokenizer):
        return vocabulary.library()
    else:
        raise UserError(
            f"vocabulary {vocabulary}: transformers has no counterpart; there are Bytes, SentencePiece, WordPiece, Tokenizer"
        )
    # A sentinel is a word: the space before it is its own, as in SeqIO. Bytes keep theirs.
    takes = isinstance(vocabulary, SentencePiece)
    made.add_special_tokens(
        [
            AddedToken(f"<extra_id_{i}>", special=True, normalized=False, lstrip=takes)
            for i in reversed(range(vocabulary.extra_ids))
        ]
    )
    return made


def framed_library(vocabulary: Vocabulary, kind: Kind) -> Library:
    """Return the vocabulary as a tokenizer that puts around a text what `frame` says, and in an encoder's pairs gives the second text type 1."""
    library = library_of(vocabulary)
    before, behind = ([_token(library, i) for i in ids] for ids in frame(vocabulary, kind))
    second = int(kind == "encoder")
    between = [_token(library, i) for i in vocabulary.between] if kind == "encoder" else behind
    library.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *behind],
        pair=[*before, "$A", *between, f"$B:{second}", *(f"{token}:{second}" for token in behind)],
        special_tokens=[(token, library.token_to_id(token)) for token in dict.fromkeys([*before, *behind])],
    )
    return library


def _token(library: Library, number: int) -> str:
    token = library.id_to_token(number)
    assert token is not None, f"id {number} has a name"
    return token


def _bytes() -> Library:
    # Byte-level BPE without a merge, its 256 letters in the order of the bytes.
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

    _ = vocabulary.size  # an unfit file is told here
    proto = ModelProto.FromString(read(vocabulary.path))
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    if trainer.treat_whitespace_as_suffix or trainer.model_type not in (1, 2):
        raise UserError(
            f"vocabulary file {vocabulary.path!r}: only SentencePiece's unigram and bpe models with spaces before words can be written for transformers"
        )
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    ids = {name: i for i, (name, _, _) in enumerate(pieces)}
    if trainer.model_type == 1:
        scored = [(name, _CERTAIN if kind == _USER_DEFINED else score) for name, score, kind in pieces]
        library = Library(models.Unigram(scored, trainer.unk_id, trainer.byte_fallback))
    else:
        unknown = pieces[trainer.unk_id][0]
        library = Library(
            models.BPE(ids, _merges(pieces, ids), unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback)
        )
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        if "nfkc" in spec.name:
            # The library looks up a letter with its marks as a whole, SentencePiece as far as it knows: composed first, both see the same.
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
    own = None if vocabulary.mask_id is None or vocabulary.mask_id >= len(pieces) else pieces[vocabulary.mask_id][0]
    if own is not None:
        library.add_special_tokens([AddedToken(own, special=True, normalized=False, lstrip=True)])
    return library


def _merges(pieces: list[tuple[str, float, int]], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Return the pairs that make a piece, the best piece first: SentencePiece's BPE keeps the order of merging in the scores."""
    merges = []
    for name, score, kind in pieces:
        if kind == _NORMAL:
            halves = [(name[:i], name[i:]) for i in range(1, len(name))]
            known = [pair for pair in halves if pair[0] in ids and pair[1] in ids]
            merges += [(score, pair) for pair in sorted(known, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    return [pair for _, pair in sorted(merges, key=lambda merge: -merge[0])]
