"""The tokenizer of a GGUF file: byte-level BPE, made into a tokenizer.json of its tokens and merges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.export.directory import write_json

TOKENS = "tokenizer.ggml.tokens"
_CONTROL, _USER_DEFINED = 3, 4
"""Kinds of tokens in GGUF."""
_ROLES = (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))

# How texts are cut before merging, by tokenizer.ggml.pre: whether digits stand alone, and GPT-2's pattern or another.
_PRE = {"smollm": True, "gpt-2": False, "default": False}


def tokens_of(fields: Mapping[str, Any], where: str) -> list[str]:
    """Return the tokens by id. Raises UserError where there are none, one is empty or one is there twice."""
    tokens = _texts(fields, TOKENS, where)
    if not tokens or "" in tokens:
        raise UserError(f"{where}: {TOKENS} has {'a token without text' if tokens else 'no token'}")
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if ids.setdefault(token, number) != number:
            raise UserError(f"{where}: {TOKENS} has {token[:80]!r} twice, as {ids[token]} and {number}")
    return tokens


def id_of(fields: Mapping[str, Any], role: str, size: int, where: str) -> int | None:
    """Return the id of a special token ("eos") among `size` tokens, None where the file names none. Raises UserError where it is the id of no token."""
    name = f"tokenizer.ggml.{role}_token_id"
    number = fields.get(name)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < size:
        raise UserError(f"{where}: {name} is {str(number)[:80]}, and there are {size:,} tokens")
    return number


def write_tokenizer(fields: Mapping[str, Any], out: Path, where: str) -> None:
    """Write tokenizer.json and tokenizer_config.json to `out`. Raises UserError for a tokenizer of another kind, or one that cannot be."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, cut = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or cut not in _PRE:
        raise UserError(
            f"{where}: its tokenizer is {kind!r} ({cut!r}); byte-level BPE of {', '.join(_PRE)} is read. --vocabulary FILE gives one"
        )
    tokens, kinds = tokens_of(fields, where), fields.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise UserError(f"{where}: tokenizer.ggml.token_type is not one number for each of the {len(tokens):,} tokens")
    merges = _merges(fields, set(tokens), where)
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_]) if _PRE[cut] else bytes_
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (_CONTROL, _USER_DEFINED)
        ]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, role in _ROLES:
        number = id_of(fields, name, len(tokens), where)
        if number is not None:
            settings[f"{role}_token"] = tokens[number]
    if template := fields.get("tokenizer.chat_template"):
        if not isinstance(template, str):
            raise UserError(f"{where}: tokenizer.chat_template is no text")
        settings["chat_template"] = template
    write_json(out / "tokenizer_config.json", settings)


def _merges(fields: Mapping[str, Any], known: set[str], where: str) -> list[tuple[str, str]]:
    merges = []
    for merge in _texts(fields, "tokenizer.ggml.merges", where):
        left, _, right = merge.partition(" ")
        missing = [part for part in (left, right, left + right) if part not in known]
        if not left or not right or missing:
            reason = (
                f"{missing[0][:80]!r} is no token" if left and right else "two tokens with a space between are wanted"
            )
            raise UserError(f"{where}: tokenizer.ggml.merges has {merge[:80]!r}: {reason}")
        merges.append((left, right))
    return merges


def _texts(fields: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where}: {name} is {'missing' if value is None else 'no list of texts'}")
    return value
