"""Conversion of a GGUF tokenizer (byte-level BPE) to a tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t2t.errors import UserError
from t2t.export.directory import write_json

TOKENS = "tokenizer.ggml.tokens"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types in GGUF."""
_ROLES = (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))

PRE = {"smollm": True, "gpt-2": False, "default": False}
"""Pre-tokenizer (tokenizer.ggml.pre) -> whether each digit is a separate token. All use the pattern of GPT-2."""


def tokens_of(fields: Mapping[str, Any], where: str) -> list[str]:
    """Return the tokens in the order of their ids. Raises UserError if there are none, or a token is empty or occurs twice."""
    tokens = _texts(fields, TOKENS, where)
    if not tokens or "" in tokens:
        raise UserError(f"{where}: {TOKENS} has {'an empty token' if tokens else 'no tokens'}")
    ids: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if ids.setdefault(token, number) != number:
            raise UserError(f"{where}: {TOKENS} has {token[:80]!r} twice, with ids {ids[token]} and {number}")
    return tokens


def id_of(fields: Mapping[str, Any], role: str, size: int, where: str) -> int | None:
    """Return the id of a special token ("eos"), or None if the file has none. Raises UserError if it is not an id of one of `size` tokens."""
    name = f"tokenizer.ggml.{role}_token_id"
    number = fields.get(name)
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < size:
        raise UserError(f"{where}: {name} is {str(number)[:80]}, but there are only {size:,} tokens")
    return number


def write_tokenizer(fields: Mapping[str, Any], out: Path, where: str) -> None:
    """Write tokenizer.json and tokenizer_config.json to `out`. Raises UserError if the tokenizer is not supported or is invalid."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind, pre = fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre", "default")
    if kind != "gpt2" or pre not in PRE:
        raise UserError(
            f"{where}: unsupported tokenizer {kind!r} ({pre!r}); only byte-level BPE of {', '.join(PRE)} is supported. Use --vocabulary FILE instead"
        )
    tokens, kinds = tokens_of(fields, where), fields.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise UserError(
            f"{where}: tokenizer.ggml.token_type does not have one number for each of the {len(tokens):,} tokens"
        )
    merges = _merges(fields, set(tokens), where)
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_]) if PRE[pre] else bytes_
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]
    )
    tokenizer.save(str(out / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, role in _ROLES:
        number = id_of(fields, name, len(tokens), where)
        if number is not None:
            settings[f"{role}_token"] = tokens[number]
    if isinstance(add_bos := fields.get("tokenizer.ggml.add_bos_token"), bool):
        settings["add_bos_token"] = add_bos
    if template := fields.get("tokenizer.chat_template"):
        if not isinstance(template, str):
            raise UserError(f"{where}: tokenizer.chat_template is not a string")
        settings["chat_template"] = template
    write_json(out / "tokenizer_config.json", settings)


def _merges(fields: Mapping[str, Any], known: set[str], where: str) -> list[tuple[str, str]]:
    merges = []
    for merge in _texts(fields, "tokenizer.ggml.merges", where):
        left, _, right = merge.partition(" ")
        missing = [part for part in (left, right, left + right) if part not in known]
        if not left or not right or missing:
            reason = f"{missing[0][:80]!r} is not a token" if left and right else "expected two tokens and a space"
            raise UserError(f"{where}: tokenizer.ggml.merges has {merge[:80]!r}: {reason}")
        merges.append((left, right))
    return merges


def _texts(fields: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{where}: {name} is {'missing' if value is None else 'not a list of strings'}")
    return value
