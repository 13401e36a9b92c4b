"""The tokenizer of a directory of `transformers`: read as a vocabulary, and written so that it gives the same ids there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, Vocabulary, WordPiece

KEPT = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
)
"""Files that an import keeps beside the run, so that an export of it gives them back as they were."""

_BYT5_EXTRA_IDS = 125


def read_vocabulary(directory: Path, options: Mapping[str, Any], *, scratch: Path) -> Vocabulary:
    """Return the vocabulary of the directory's tokenizer files.

    options: those of config.json. scratch: where a file may be made that the directory lacks (a tokenizer.json of vocab.json and merges.txt).
    Raises UserError where there is no tokenizer, or one whose ids cannot be given.
    """
    settings = _json(directory / "tokenizer_config.json")
    kind = str(settings.get("tokenizer_class") or options.get("tokenizer_class") or "").removesuffix("Fast")
    if kind == "ByT5Tokenizer":
        return Bytes(extra_ids=settings.get("extra_ids", _BYT5_EXTRA_IDS))
    spiece, fast = directory / "spiece.model", directory / "tokenizer.json"
    if spiece.is_file() and options.get("model_type") in ("t5", "mt5", "umt5"):
        own = SentencePiece(path=str(spiece))
        has_sentinels = own.encode("<extra_id_0>")[-1:] == [own.size - 1]
        return SentencePiece(path=str(spiece), extra_ids=0 if has_sentinels else settings.get("extra_ids", 100))
    if fast.is_file():
        return tokenizer_of(fast, options)
    if (directory / "vocab.txt").is_file():
        return _checked(WordPiece(path=str(directory / "vocab.txt"), lowercase=settings.get("do_lower_case", True)))
    if (directory / "vocab.json").is_file() and (directory / "merges.txt").is_file():
        return _tokenizer(_byte_level(directory, scratch), directory, options)
    if not kind and options.get("model_type") in ("t5", "mt5") and options.get("vocab_size") == 384:
        return Bytes(extra_ids=_BYT5_EXTRA_IDS)
    there = ", ".join(sorted(path.name for path in directory.iterdir())[:12])
    raise UserError(
        f"{directory}: no tokenizer that can be read (tokenizer.json, spiece.model of a T5, vocab.txt, vocab.json with merges.txt); there are {there}."
        " --vocabulary FILE gives one; transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) writes a tokenizer.json"
    )


def tokenizer_of(file: Path, options: Mapping[str, Any] | None = None) -> WordPiece | Tokenizer:
    """Return the vocabulary of a tokenizer.json, special tokens as tokenizer_config.json beside it names them.

    options: those of config.json, which has their ids.
    """
    if _json(file).get("model", {}).get("type") == "WordPiece":
        return _checked(WordPiece(path=str(file)))
    return _tokenizer(file, file.parent, options or {})


def _checked(vocabulary: WordPiece) -> WordPiece:
    _ = vocabulary.size  # an unfit file is told here
    return vocabulary


def _byte_level(directory: Path, scratch: Path) -> Path:
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers

    bpe = models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt"))
    tokenizer = Library(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    known = tokenizer.get_vocab()
    tokenizer.add_special_tokens(
        [token for token in ("<|endoftext|>", "<s>", "<pad>", "</s>", "<unk>", "<mask>") if token in known]
    )
    tokenizer.save(str(scratch / "tokenizer.json"))
    return scratch / "tokenizer.json"


def _tokenizer(file: Path, directory: Path, options: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import Tokenizer as Library

    try:
        library = Library.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{file}: not a tokenizer.json ({error})") from None
    named = {**_json(directory / "special_tokens_map.json"), **_json(directory / "tokenizer_config.json")}
    known = library.get_vocab(with_added_tokens=True)

    def token(role: str) -> str | None:
        found = named.get(f"{role}_token")
        if isinstance(found, dict):
            found = found.get("content")
        if found is None:
            number = options.get(f"{role}_token_id")
            number = number[0] if isinstance(number, list) and number else number
            found = library.id_to_token(number) if isinstance(number, int) and number >= 0 else None
        return found if found in known else None

    # Roles that neither file names, by how these families spell them.
    usual = {
        "eos": ("</s>", "<|endoftext|>", "[SEP]"),
        "mask": ("<mask>", "[MASK]"),
        "cls": ("[CLS]",),
        "sep": ("[SEP]",),
        "pad": ("<pad>", "[PAD]"),
        "unk": ("<unk>", "[UNK]"),
    }
    roles: dict[str, str | None] = {}
    for role in ("eos", "bos", "unk", "pad", "mask", "cls", "sep"):
        roles[role] = token(role) or next((name for name in usual.get(role, ()) if name in known), None)
    if options.get("model_type") in ("roberta", "xlm-roberta", "albert"):
        roles["eos"] = roles["sep"] or roles["eos"]
        roles["cls"], roles["sep"] = roles["cls"] or roles["bos"], roles["sep"] or roles["eos"]
    eos = roles.pop("eos")
    if eos is None:
        raise UserError(f"{file}: no end-of-sequence token is named (eos_token in tokenizer_config.json)")
    framed = library.encode("a", add_special_tokens=True).ids
    bos = roles["bos"]
    opens = bos is not None and options.get("is_encoder_decoder") is not True and framed[:1] == [known[bos]]
    return Tokenizer(path=str(file), eos=eos, add_bos=opens, **roles)  # type: ignore[arg-type]


def write_tokenizer(draft: Path, vocabulary: Vocabulary, *, kept: Path | None = None) -> None:
    """Write the tokenizer's files as `transformers` reads them.

    kept: a directory of files an import kept, which are given back as they were.
    """
    if kept is not None and kept.is_dir():
        for name in KEPT:
            if (kept / name).is_file():
                shutil.copyfile(kept / name, draft / name)
        return
    settings: dict[str, Any] = {"model_max_length": 1_000_000_000}
    if isinstance(vocabulary, Bytes):
        settings |= {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocabulary.extra_ids}
        settings |= {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    elif isinstance(vocabulary, SentencePiece):
        shutil.copyfile(vocabulary.path, draft / "spiece.model")
        settings |= {"tokenizer_class": "T5Tokenizer", "extra_ids": vocabulary.extra_ids}
        settings |= {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    elif isinstance(vocabulary, WordPiece):
        (draft / "tokenizer.json").write_text(vocabulary.serialised(), encoding="utf-8")
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}
        for role, spelled in (
            ("pad", "[PAD]"),
            ("unk", "[UNK]"),
            ("cls", "[CLS]"),
            ("sep", "[SEP]"),
            ("mask", "[MASK]"),
        ):
            settings[f"{role}_token"] = spelled
    elif isinstance(vocabulary, Tokenizer):
        (draft / "tokenizer.json").write_text(vocabulary.serialised(), encoding="utf-8")
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        for role in ("bos", "eos", "unk", "pad", "mask", "cls", "sep"):
            if (spelled := getattr(vocabulary, role)) is not None:
                settings[f"{role}_token"] = spelled
    else:
        raise UserError(
            f"vocabulary {vocabulary}: transformers has no counterpart; there are Bytes, SentencePiece, WordPiece, Tokenizer"
        )
    (draft / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    return data if isinstance(data, dict) else {}
