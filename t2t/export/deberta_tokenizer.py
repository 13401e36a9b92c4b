"""The tokenizer of DeBERTa v2 and v3 for a SentencePiece model (spm.model), as `transformers` 5 makes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as Library

from t2t.errors import UserError
from t2t.export.added_tokens import CONFIG
from t2t.json_files import expect
from t2t.vocabularies import SentencePiece
from t2t.vocabularies.files import read

FILE = "spm.model"
_UNIGRAM = 1
_CONTROL, _USER_DEFINED = 3, 4
"""Types of models and of pieces in SentencePiece."""


def deberta_library(directory: Path, settings: Mapping[str, Any], names: Mapping[str, str]) -> Library:
    """Return the tokenizer for spm.model. It uses the pieces and their scores, and neither the normalization nor the bytes of the SentencePiece model.

    settings: tokenizer_config.json.
    names:    tokens by role; one that spm.model does not have, as [MASK], follows the pieces.

    Raises UserError if the file is invalid or not a unigram model, or if a setting has the wrong type.
    """
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    file = str(directory / FILE)
    _ = SentencePiece(path=file).size  # Raises UserError if the file is invalid.
    proto = ModelProto.FromString(read(file))
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise UserError(
            f"vocabulary file {file!r}: the tokenizer of DeBERTa needs a SentencePiece model of type unigram"
        )

    def flag(name: str, default: bool) -> bool:
        return bool(expect(settings.get(name, default), bool, f"{directory / CONFIG}: {name}"))

    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    unknown = pieces.index((names["unk"], 0.0)) if (names["unk"], 0.0) in pieces else proto.trainer_spec.unk_id
    library = Library(models.Unigram(pieces, unknown, False))
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if flag("do_lower_case", False) else []
    steps += [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    library.normalizer = normalizers.Sequence(steps)
    scheme = "always" if flag("add_prefix_space", True) else "first"
    splits: list[pre_tokenizers.PreTokenizer] = (
        [pre_tokenizers.Punctuation(behavior="isolated")] if flag("split_by_punct", False) else []
    )
    library.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.Metaspace(prepend_scheme=scheme)])
    library.decoder = decoders.Metaspace(prepend_scheme=scheme)
    for piece in proto.pieces:
        if piece.type in (_CONTROL, _USER_DEFINED):
            token = AddedToken(piece.piece, special=piece.type == _CONTROL, normalized=False)
            (library.add_special_tokens if token.special else library.add_tokens)([token])
    library.add_special_tokens([AddedToken(name, special=True) for name in names.values()])
    cls, sep = names["cls"], names["sep"]
    library.post_processor = processors.TemplateProcessing(
        single=[cls, "$A", sep],
        pair=[cls, "$A", sep, "$B:1", f"{sep}:1"],
        special_tokens=[(name, library.token_to_id(name)) for name in (cls, sep)],
    )
    return library
