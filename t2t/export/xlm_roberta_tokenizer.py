"""The tokenizer of XLM-RoBERTa from its SentencePiece model alone, for directories without a tokenizer.json.

fairseq puts its own special tokens first: `<s>`, `<pad>`, `</s>`, `<unk>`. The pieces of the model follow from its fourth piece on, so an id is one more than in
the model. `<mask>` is last, and includes the space before it.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from t2t.errors import UserError
from t2t.vocabularies.files import read

PIECES = "sentencepiece.bpe.model"
"""Name of the SentencePiece model."""
MODEL_TYPES = ("xlm-roberta", "xlm-roberta-xl")
"""Values of `model_type` with this tokenizer."""
_FIRST, _MASK = ("<s>", "<pad>", "</s>", "<unk>"), "<mask>"
_OWN = ["<unk>", "<s>", "</s>"]
"""The first pieces of the SentencePiece model, which the tokens of fairseq replace."""


def xlm_roberta_tokenizer(file: Path) -> Tokenizer:
    """Return the tokenizer, which gives the ids that `XLMRobertaTokenizer` of `transformers` gives.

    Raises UserError if the file is damaged, or is not a unigram model that begins with `<unk>`, `<s>`, `</s>`.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece.sentencepiece_model_pb2 import ModelProto  # type: ignore[attr-defined]

    try:
        proto = ModelProto.FromString(read(str(file)))
    except DecodeError:
        raise UserError(f"vocabulary file {str(file)!r} is not a SentencePiece model.") from None
    first = [piece.piece for piece in proto.pieces[:3]]
    if proto.trainer_spec.model_type != 1 or first != _OWN:
        raise UserError(
            f"vocabulary file {str(file)!r}: XLM-RoBERTa's is a unigram model that begins with {', '.join(_OWN)}; this one begins with {', '.join(first)}"
        )
    scored = [*((name, 0.0) for name in _FIRST), *((piece.piece, piece.score) for piece in proto.pieces[3:])]
    tokenizer = Tokenizer(models.Unigram([*scored, (_MASK, 0.0)], _FIRST.index("<unk>"), False))
    if proto.normalizer_spec.precompiled_charsmap:
        tokenizer.normalizer = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    words = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in _FIRST])
    tokenizer.add_special_tokens([AddedToken(_MASK, special=True, normalized=False, lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer
