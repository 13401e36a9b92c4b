"""A vocabulary of a file that the user names: --vocabulary FILE."""

from __future__ import annotations

from pathlib import Path

from t2t.errors import UserError
from t2t.export.tokenizer_files import tokenizer_of
from t2t.paths import check
from t2t.vocabularies import SentencePiece, Vocabulary, WordPiece


def vocabulary_of(path: str, option: str = "--vocabulary") -> Vocabulary:
    """Return the vocabulary of a file, its kind told from the name: .model is SentencePiece, .txt is WordPiece, .json what it says (WordPiece, byte-level BPE, ...).

    A SentencePiece model without sentinels of its own, T5's for example, gets T5's 100.

    Raises:
        UserError: no such file, another ending, or not what the ending says.
    """
    if not check(path, option).is_file():
        raise UserError(f"no vocabulary file {path} ({option})")
    ending = Path(path).suffix
    if ending == ".model":
        own = SentencePiece(path=path)
        return SentencePiece(path=path, extra_ids=0 if own.encode("<extra_id_0>")[-1:] == [own.size - 1] else 100)
    if ending == ".json":
        return tokenizer_of(Path(path))
    if ending == ".txt":
        return WordPiece(path=path)
    raise UserError(f"vocabulary file {path} ({option}): the ending {ending!r} is none of .model, .txt, .json")
