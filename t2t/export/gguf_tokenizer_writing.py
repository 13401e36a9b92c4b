"""Writing of a tokenizer.json to a GGUF file: byte-level BPE, and BPE of SentencePiece (LLaMA 2), which llama.cpp stores as scores."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer as Library
from tokenizers import models

from t2t.errors import UserError
from t2t.export.gguf_models import ELSE
from t2t.export.gguf_tokenizer import BYTE, CONTROL, NORMAL, PRE, UNKNOWN, UNUSED, USER_DEFINED
from t2t.export.tokenizer_json import library_of
from t2t.vocabularies import Tokenizer, Vocabulary

_PREPEND = {"type": "Prepend", "prepend": "▁"}
_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_NO_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
"""Gemma's: it finds no space, since all are replaced before."""
_BYTES = re.compile(r"<0x[0-9A-F]{2}>")
_UNREACHABLE = -1e4
"""Score of tokens that no merge makes, as in `convert_hf_to_gguf.py`."""


def add_tokenizer(writer: Any, vocabulary: Vocabulary, rows: int) -> list[str]:
    """Add the tokens and their merges or scores, and the special tokens, to a `gguf.GGUFWriter`. Return notes on what is not stored.

    rows: of the embedding. Rows without a token get unused ones.
    Raises UserError if llama.cpp has no such tokenizer.
    """
    if not isinstance(vocabulary, Tokenizer):
        raise UserError(f"--format gguf: a vocabulary {type(vocabulary).__name__} is not a BPE tokenizer.json; {ELSE}")
    library = library_of(vocabulary)
    content = json.loads(library.to_str())
    model = content["model"]
    names = {number: token for token, number in library.get_vocab(with_added_tokens=True).items()}
    pre = _pre(content)
    prefix = None if pre else _space_prefix(content)
    if pre is None and prefix is None:
        raise UserError(
            f"--format gguf: the tokenizer is neither a byte-level BPE split as in {', '.join(PRE)} nor a BPE of SentencePiece as in LLaMA 2 or Gemma; {ELSE}"
        )
    added = library.get_added_tokens_decoder()
    taken = set(names.values())
    kinds = [_kind(i, names, added, model) for i in range(rows)]
    unused = (name for i in itertools.count() if (name := f"[PAD{i}]") not in taken)
    tokens = [names[i] if i in names else next(unused) for i in range(rows)]
    writer.add_tokenizer_model("gpt2" if pre else "llama")
    writer.add_tokenizer_pre(pre or "default")
    if pre is None:
        scores = scores_of(model, [token for token, kind in zip(tokens, kinds, strict=True) if kind != NORMAL])
        writer.add_token_scores([scores.get(token, _UNREACHABLE) for token in tokens])
        writer.add_add_space_prefix(prefix)
        # llama.cpp prints a user-defined token as it is stored.
        spaced = zip(tokens, kinds, strict=True)
        tokens = [token.replace("▁", " ") if kind == USER_DEFINED else token for token, kind in spaced]
    else:
        writer.add_token_merges([" ".join(merge) for merge in _merges(model)])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    notes = _add_special(writer, vocabulary, library)
    if pre is not None and PRE[pre].nfc:
        notes.append("llama.cpp does not normalize texts to NFC: texts in another form get other ids there")
    return notes


def scores_of(model: Mapping[str, Any], apart: Collection[str] = ()) -> dict[str, float]:
    """Return the score of each token that a merge makes: 0 for the first, -1 for the second, ...

    llama.cpp merges any two neighbours that make a token, best score first.

    model: the BPE of a tokenizer.json.
    apart: the tokens that are not made by merges: added tokens and bytes.
    Raises UserError if the merges are not equivalent to scores: those of a token are apart from each other, or some are missing.
    """
    scores: dict[str, float] = {}
    last, merges = None, _merges(model)
    for left, right in merges:
        token = left + right
        if token != last and token in scores:
            raise UserError(f"--format gguf: the merges of {token!r:.80} do not follow each other; {ELSE}")
        scores.setdefault(token, -float(len(scores)))
        last = token
    vocab, known = model["vocab"], set(merges)
    for token in vocab.keys() - set(apart):
        for left, right in ((token[:i], token[i:]) for i in range(1, len(token))):
            if left in vocab and right in vocab and (left, right) not in known:
                raise UserError(
                    f"--format gguf: the tokenizer does not merge {left!r:.80} and {right!r:.80}, and llama.cpp does; {ELSE}"
                )
    return scores


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the merges of the BPE of a tokenizer.json. Older files have texts with a space."""
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in pairs]


def _kind(number: int, names: Mapping[int, str], added: Mapping[int, Any], model: Mapping[str, Any]) -> int:
    if number not in names:
        return UNUSED
    if names[number] == model["unk_token"]:
        return UNKNOWN
    if number in added:
        return CONTROL if added[number].special else USER_DEFINED
    return BYTE if model["byte_fallback"] and _BYTES.fullmatch(names[number]) else NORMAL


def _add_special(writer: Any, vocabulary: Tokenizer, library: Library) -> list[str]:
    for role in ("bos", "unk", "pad"):
        token = getattr(vocabulary, role)
        if token is not None:
            getattr(writer, f"add_{role}_token_id")(library.token_to_id(token))
    first, *others = vocabulary.end_ids
    writer.add_eos_token_id(first)
    for number, add in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        add(number)
    writer.add_add_bos_token(vocabulary.prepends_bos)
    writer.add_add_eos_token(False)
    return [f"GGUF has no place for the end ids {others[2:]}"] if others[2:] else []


def _pre(content: Mapping[str, Any]) -> str | None:
    """Return llama.cpp's name of the splitting of a tokenizer.json with a byte-level BPE; None if it has no name for it."""
    if not _is_plain(content["model"]) or content["model"]["byte_fallback"]:
        return None
    for name, splitting in PRE.items():
        empty = Library(models.BPE(ignore_merges=splitting.whole_parts))
        splitting.apply(empty)
        if _splits(json.loads(empty.to_str())) == _splits(content):
            return name
    return None


def _splits(content: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what decides how a tokenizer.json splits texts. `trim_offsets` does not change ids."""
    pre = content["pre_tokenizer"] or {}
    parts: Sequence[Mapping[str, Any]] = pre.get("pretokenizers", [pre])
    shown = [{name: value for name, value in part.items() if name != "trim_offsets"} for part in parts]
    return content["normalizer"], shown, content["model"]["ignore_merges"]


def _space_prefix(content: Mapping[str, Any]) -> bool | None:
    """Return whether a BPE of SentencePiece puts a space before texts; None if the tokenizer.json is not one that llama.cpp has."""
    model, pre = content["model"], content["pre_tokenizer"]
    if not _is_plain(model) or not model["byte_fallback"] or model["ignore_merges"] or pre not in (None, _NO_SPLIT):
        return None
    steps = content["normalizer"] or {}
    steps = steps.get("normalizers", [steps])
    return {1: False, 2: True}.get(len(steps)) if steps in ([_SPACES], [_PREPEND, _SPACES]) else None


def _is_plain(model: Mapping[str, Any]) -> bool:
    """Return whether the model of a tokenizer.json is a BPE without options that llama.cpp does not have."""
    others = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    return model["type"] == "BPE" and not any(model.get(name) for name in others)
