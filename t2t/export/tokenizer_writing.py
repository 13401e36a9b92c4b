"""Writing of the tokenizer files of a `transformers` export, and the check that they give the vocabulary's ids."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t.export.added_tokens import CONFIG
from t2t.export.directory import write_json
from t2t.export.marian_files import write_marian
from t2t.export.token_check import TEXTS, check, difference, marked, sentinels
from t2t.export.tokenizer_files import KEPT, read_vocabulary
from t2t.export.tokenizer_json import framed, framed_library
from t2t.nn.model import Kind
from t2t.stored_paths import check_links
from t2t.vocabularies import Marian, SentencePiece, Tokenizer, Vocabulary, WordPiece
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
    """Write the tokenizer files for `transformers`: a tokenizer.json, which needs neither `sentencepiece` nor `protobuf`, or the files of Marian.

    kind:    kind of the model. It determines the special tokens that the tokenizer adds to a text.
    lengths: lengths of inputs and targets in training, which an import reads.
    kept:    directory of the original tokenizer files of an imported model. They are copied unchanged.

    Raises UserError if `transformers` has no equivalent tokenizer.
    """
    if kept is not None and kept.is_dir():
        check_links(kept, {Path(name).suffix for name in KEPT})
        for name in KEPT:
            if (kept / name).is_file():
                shutil.copyfile(kept / name, draft / name)
        return
    settings = (
        write_marian(draft, vocabulary) if isinstance(vocabulary, Marian) else _write_library(draft, vocabulary, kind)
    )
    if lengths is not None:
        settings["trained_lengths"] = dict(lengths)
    write_json(draft / CONFIG, settings)


def _write_library(draft: Path, vocabulary: Vocabulary, kind: Kind) -> dict[str, Any]:
    """Write tokenizer.json, and return the settings for tokenizer_config.json."""
    library = framed_library(vocabulary, kind)
    (draft / "tokenizer.json").write_text(library.to_str(pretty=True), encoding="utf-8")
    if isinstance(vocabulary, SentencePiece):  # For T5X and other tools that only read SentencePiece.
        shutil.copyfile(vocabulary.path, draft / "spiece.model")
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 1_000_000_000,
        "clean_up_tokenization_spaces": isinstance(vocabulary, WordPiece),
        # A decoder has no token types. Its prompts are padded on the left, so that they end where generation starts.
        "model_input_names": ["input_ids", *(["token_type_ids"] if kind == "encoder" else []), "attention_mask"],
        "padding_side": "left" if kind == "decoder" else "right",
    }
    ids = {"pad": vocabulary.pad_id, "eos": vocabulary.eos_id, "unk": vocabulary.unk_id}
    if kind == "decoder" or isinstance(vocabulary, Tokenizer):
        ids["bos"] = vocabulary.bos_id
    if vocabulary.adds_cls:
        ids["cls"] = vocabulary.cls_id
    if kind == "encoder":
        ids |= {"mask": vocabulary.mask_id, "cls": vocabulary.cls_id, "sep": vocabulary.sep_id}
    for role, number in ids.items():
        if number is not None:
            settings[f"{role}_token"] = library.id_to_token(number)
    if isinstance(vocabulary, SentencePiece):
        settings["extra_ids"] = vocabulary.extra_ids
    return settings


def check_tokenizer(draft: Path, vocabulary: Vocabulary, kind: Kind, options: Mapping[str, Any], *, kept: bool) -> int:
    """Check that the tokenizer files give the ids of the vocabulary, and return the number of texts.

    The files are read with the `tokenizers` library, as in an import, and with `transformers` if it is installed. For files kept by an import,
    a difference in `transformers` is only a warning.

    Raises Failure if ids differ.
    """
    special = [] if kind == "decoder" else _mask(vocabulary)
    texts = [*TEXTS, *marked([*sentinels(vocabulary), *special])]
    file = draft / "tokenizer.json"
    if not kept and file.is_file():
        library = load(read(str(file)), str(file))
        check(
            "the tokenizer's files", lambda text: framed(vocabulary, kind, text), lambda t: library.encode(t).ids, texts
        )
    # Not in the draft: a file that is read with changes would replace the file itself.
    with tempfile.TemporaryDirectory(prefix="t2t-tokenizer-") as scratch:
        back = read_vocabulary(draft, options, scratch=Path(scratch))
        check("the tokenizer's files, read back,", vocabulary.encode_marked, back.encode_marked, texts)
        if vocabulary.of_targets != vocabulary:
            ours, theirs = vocabulary.of_targets, back.of_targets
            check("the tokenizer's files for targets, read back,", ours.encode_marked, theirs.encode_marked, texts)
    if importlib.util.find_spec("transformers") is not None:
        _compare_with_transformers(draft, vocabulary, kind, texts, kept=kept)
        if vocabulary.of_targets != vocabulary:
            _compare_with_transformers(draft, vocabulary.of_targets, kind, texts, kept=kept, targets=True)
    return len(texts)


def _mask(vocabulary: Vocabulary) -> list[str]:
    return (
        ["[MASK]"]
        if vocabulary.mask_id is not None and vocabulary.mask_id < vocabulary.size - vocabulary.extra_ids
        else []
    )


def _compare_with_transformers(
    draft: Path, vocabulary: Vocabulary, kind: Kind, texts: list[str], *, kept: bool, targets: bool = False
) -> None:
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(draft, local_files_only=True, trust_remote_code=False)
    mask = tokenizer.mask_token

    def theirs(text: str) -> list[int]:
        text = text.replace("[MASK]", mask) if mask else text
        given = {"text_target" if targets else "text": text}
        return list(tokenizer(**given, add_special_tokens=not kept)["input_ids"])

    def ours(text: str) -> list[int]:
        return vocabulary.encode_marked(text)[vocabulary.adds_cls :] if kept else framed(vocabulary, kind, text)

    if not kept:
        check("the tokenizer's files, read by transformers,", ours, theirs, texts)
    elif found := difference(ours, theirs, texts):
        print(
            f"note: transformers gives different ids than this run's vocabulary: {found} (the run first)",
            file=sys.stderr,
        )
