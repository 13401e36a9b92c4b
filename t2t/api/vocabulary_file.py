"""Read the vocabulary of a user's file: --vocabulary FILE."""

from __future__ import annotations

from pathlib import Path

from t2t.errors import UserError
from t2t.export.marian_files import is_marian, read_marian
from t2t.export.tokenizer_files import tokenizer_of
from t2t.paths import check
from t2t.vocabularies import SentencePiece, Vocabulary, WordPiece
from t2t.vocabularies.marian import TABLE


def vocabulary_of(path: str, option: str = "--vocabulary") -> Vocabulary:
    """Return the vocabulary of a file.

    The extension gives the kind: .model is SentencePiece, .txt is WordPiece, .json is a tokenizer.json (WordPiece, byte-level BPE, ...).
    The vocab.json of Marian has source.spm and target.spm beside it.
    A SentencePiece model without its own sentinels, such as T5's, gets the 100 sentinels of T5.

    Raises:
        UserError: the file is missing, has another extension, or does not have the format of its extension.
    """
    if not check(path, option).is_file():
        raise UserError(f"no vocabulary file {path} ({option})")
    ending = Path(path).suffix
    if ending == ".model":
        model = SentencePiece(path=path)
        has_sentinels = model.encode("<extra_id_0>")[-1:] == [model.size - 1]
        return SentencePiece(path=path, extra_ids=0 if has_sentinels else 100)
    if Path(path).name == TABLE and is_marian(Path(path).parent, ""):
        return read_marian(Path(path).parent, {}, [])
    if ending == ".json":
        return tokenizer_of(Path(path))
    if ending == ".txt":
        return WordPiece(path=path)
    raise UserError(f"vocabulary file {path} ({option}): the extension {ending!r} is not one of .model, .txt, .json")
