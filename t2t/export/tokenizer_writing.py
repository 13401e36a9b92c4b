"""The tokenizer's files of an export to `transformers`, and the proof that they give the vocabulary's ids."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t.export.added_tokens import CONFIG
from t2t.export.directory import write_json
from t2t.export.token_check import TEXTS, check, difference, marked, sentinels
from t2t.export.tokenizer_files import KEPT, read_vocabulary
from t2t.export.tokenizer_json import framed, framed_library
from t2t.nn.model import Kind
from t2t.stored_paths import check_links
from t2t.vocabularies import SentencePiece, Tokenizer, Vocabulary, WordPiece
from t2t.vocabularies.files import read
from t2t.vocabularies.library import load


def write_tokenizer(
    draft: Path,
    vocabulary: Vocabulary,
    kind: Kind,
    *,
    lengths: Mapping[str, int] | None = None,
    kept: Path | None = None,
) -> None:
    """Write the tokenizer's files as `transformers` reads them: a tokenizer.json, which needs neither `sentencepiece` nor `protobuf` there.

    kind:    of the model: what stands around a text.
    lengths: tokens of inputs and targets in training, which an import takes up again.
    kept:    a directory of files an import kept, which are given back as they were.
    Raises UserError for a vocabulary that has no like there.
    """
    if kept is not None and kept.is_dir():
        check_links(kept, {Path(name).suffix for name in KEPT})
        for name in KEPT:
            if (kept / name).is_file():
                shutil.copyfile(kept / name, draft / name)
        return
    library = framed_library(vocabulary, kind)
    (draft / "tokenizer.json").write_text(library.to_str(pretty=True), encoding="utf-8")
    if isinstance(vocabulary, SentencePiece):  # for T5X, and for what reads SentencePiece alone
        shutil.copyfile(vocabulary.path, draft / "spiece.model")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1_000_000_000,
        "clean_up_tokenization_spaces": isinstance(vocabulary, WordPiece),
        # A decoder would take other types for something; rows of prompts end where it goes on.
        "model_input_names": ["input_ids", *(["token_type_ids"] if kind == "encoder" else []), "attention_mask"],
        "padding_side": "left" if kind == "decoder" else "right",
    }
    ids = {"pad": vocabulary.pad_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id}
    if kind == "decoder" or isinstance(vocabulary, Tokenizer):
        ids["bos"] = vocabulary.bos_id
    if kind == "encoder":
        ids |= {"mask": vocabulary.mask_id, "cls": vocabulary.cls_id, "sep": vocabulary.sep_id}
    for role, number in ids.items():
        if number is not None:
            settings[f"{role}_token"] = library.id_to_token(number)
    if isinstance(vocabulary, SentencePiece):
        settings["extra_ids"] = vocabulary.extra_ids
    if lengths is not None:
        settings["trained_lengths"] = dict(lengths)
    write_json(draft / CONFIG, settings)


def check_tokenizer(draft: Path, vocabulary: Vocabulary, kind: Kind, options: Mapping[str, Any], *, kept: bool) -> int:
    """Compare the ids of the tokenizer's files with the vocabulary's, and return of how many texts.

    With the `tokenizers` library, as an import reads the files, and with `transformers` where it is installed. Of files that an import kept, `transformers` may have its own
    view, which is told and no error.
    Raises Failure, in one line, where ids differ.
    """
    special = [] if kind == "decoder" else _mask(vocabulary)
    texts = [*TEXTS, *marked([*sentinels(vocabulary), *special])]
    file = draft / "tokenizer.json"
    if not kept:
        library = load(read(str(file)), str(file))
        check(
            "the tokenizer's files", lambda text: framed(vocabulary, kind, text), lambda t: library.encode(t).ids, texts
        )
    back = read_vocabulary(draft, options, scratch=draft)
    check("the tokenizer's files, read back,", vocabulary.encode_marked, back.encode_marked, texts)
    if importlib.util.find_spec("transformers") is not None:
        _compare_with_transformers(draft, vocabulary, kind, texts, kept=kept)
    return len(texts)


def _mask(vocabulary: Vocabulary) -> list[str]:
    return (
        ["[MASK]"]
        if vocabulary.mask_id is not None and vocabulary.mask_id < vocabulary.size - vocabulary.extra_ids
        else []
    )


def _compare_with_transformers(
    draft: Path, vocabulary: Vocabulary, kind: Kind, texts: list[str], *, kept: bool
) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(draft, local_files_only=True, trust_remote_code=False)
    mask = tokenizer.mask_token

    def theirs(text: str) -> list[int]:
        text = text.replace("[MASK]", mask) if mask else text
        return list(tokenizer(text, add_special_tokens=not kept)["input_ids"])

    def ours(text: str) -> list[int]:
        return vocabulary.encode_marked(text) if kept else framed(vocabulary, kind, text)

    if not kept:
        check("the tokenizer's files, read by transformers,", ours, theirs, texts)
    elif found := difference(ours, theirs, texts):
        print(
            f"note: transformers gives other ids than this run's vocabulary: {found} (the run's first)", file=sys.stderr
        )
