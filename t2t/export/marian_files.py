"""The tokenizer files of Marian: vocab.json, source.spm and target.spm."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.export.added_tokens import CONFIG, Declared, role_tokens
from t2t.vocabularies.marian import EOS, MODELS, PADDING, TABLE, UNKNOWN, Marian

TOKENIZER = "MarianTokenizer"
_ROLES = {"eos": EOS, "unk": UNKNOWN, "pad": PADDING}


def is_marian(directory: Path, kind: str) -> bool:
    """Return whether a directory has such files. kind: class of the tokenizer, "" if no file names it."""
    return kind == TOKENIZER or (
        not (directory / "tokenizer.json").is_file() and (directory / MODELS["inputs"]).is_file()
    )


def read_marian(directory: Path, settings: Mapping[str, Any], tokens: Sequence[Declared]) -> Marian:
    """Return the vocabulary of a directory.

    settings: the content of tokenizer_config.json. tokens: the added tokens that the files declare.
    Raises UserError for separate vocabularies, options of SentencePiece, other special tokens, and a file that is missing or damaged.
    """
    where = directory / CONFIG
    if settings.get("separate_vocabs"):
        raise UserError(f"{where}: separate_vocabs is true: only one vocabulary for inputs and targets is supported")
    if options := settings.get("sp_model_kwargs"):
        raise UserError(f"{where}: sp_model_kwargs is {options!r}: only the default, {{}}, is supported")
    for role, found in role_tokens(directory, settings).items():
        if found != _ROLES.get(role):
            raise UserError(f"{where}: {role}_token is {found!r}: only {_ROLES.get(role)!r} is supported")
    if more := [token for token in tokens if token.content not in _ROLES.values()]:
        raise UserError(
            f"{more[0].where}: {more[0].content!r} was added to Marian's vocabulary, which is not supported"
        )
    vocabulary = Marian(path=str(directory / TABLE))
    for one in (vocabulary, vocabulary.of_targets):
        _ = one.size, one.encode("a")  # Raises UserError if a file is missing or damaged.
    return vocabulary


def write_marian(draft: Path, vocabulary: Marian) -> dict[str, Any]:
    """Copy the files, and return the settings for tokenizer_config.json.

    Raises UserError if the vocabulary has extra ids, which the files cannot hold.
    """
    if vocabulary.extra_ids:
        raise UserError(
            f"vocabulary {vocabulary}: MarianTokenizer of transformers has no sentinels (extra_ids). Nearest: 0."
        )
    for file, name in zip(vocabulary.files(), (TABLE, *MODELS.values()), strict=True):
        shutil.copyfile(file, draft / name)
    return {
        "tokenizer_class": TOKENIZER,
        "separate_vocabs": False,
        **{f"{role}_token": token for role, token in _ROLES.items()},
    }
