"""Conversion of a GGUF tokenizer to a tokenizer.json: byte-level BPE, and BPE of SentencePiece (LLaMA 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2t.errors import UserError
from t2t.export.directory import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENS = "tokenizer.ggml.tokens"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Token types in GGUF, which are those of SentencePiece."""
_ROLES = (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad"))

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """How a byte-level BPE changes and splits texts before it merges.

    pattern:       the pattern of the parts, None for that of GPT-2.
    single_digits: whether each digit is a part of its own.
    nfc:           whether texts are normalized to NFC. llama.cpp does not do this.
    whole_parts:   whether a part that is a token stays whole, whatever the merges are (`ignore_merges`).
    """

    pattern: str | None = None
    single_digits: bool = False
    nfc: bool = False
    whole_parts: bool = False

    def apply(self, tokenizer: Tokenizer) -> None:
        """Set the normalizer and the splits of a tokenizer. `whole_parts` is an option of its BPE model."""
        from tokenizers import Regex, normalizers, pre_tokenizers

        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.pattern is None)
        if self.pattern is not None:
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(self.pattern), behavior="isolated"), bytes_]
            )
        elif self.single_digits:
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), bytes_])
        else:
            tokenizer.pre_tokenizer = bytes_
        if self.nfc:
            tokenizer.normalizer = normalizers.NFC()


PRE = {
    "gpt-2": Splitting(),
    "smollm": Splitting(single_digits=True),
    "llama-bpe": Splitting(pattern=_WORDS.replace("DIGITS", "{1,3}"), whole_parts=True),
    "qwen2": Splitting(pattern=_WORDS.replace("DIGITS", ""), nfc=True),
}
"""tokenizer.ggml.pre -> how texts are split, as in the tokenizer.json of GPT-2, SmolLM2, Llama 3, and Qwen 2, 2.5 and 3."""
_ALSO = {"default": "gpt-2", "llama3": "llama-bpe", "llama-v3": "llama-bpe"}
"""Other names of the same splitting."""


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
    from tokenizers import AddedToken

    kind, named = fields.get("tokenizer.ggml.model"), str(fields.get("tokenizer.ggml.pre", "default"))
    pre = _ALSO.get(named, named)
    if not (kind == "gpt2" and pre in PRE) and kind != "llama":
        raise UserError(
            f"{where}: unsupported tokenizer {kind!r} ({named[:80]!r}); supported are 'llama', and 'gpt2' with {', '.join(PRE)}. Use --vocabulary FILE instead"
        )
    tokens, kinds = tokens_of(fields, where), fields.get("tokenizer.ggml.token_type")
    if not isinstance(kinds, list) or len(kinds) != len(tokens):
        raise UserError(
            f"{where}: tokenizer.ggml.token_type does not have one number for each of the {len(tokens):,} tokens"
        )
    if kind == "gpt2":
        tokenizer = _byte_level(tokens, _merges(fields, set(tokens), where), PRE[pre])
    else:
        tokenizer = _sentencepiece(tokens, kinds, fields, where)
    # llama.cpp finds these tokens in a text before it splits it.
    for added, special in (((CONTROL, UNKNOWN), True), ((USER_DEFINED,), False)):
        found = [
            AddedToken(token, special=special, normalized=False)
            for token, kind in zip(tokens, kinds, strict=True)
            if kind in added
        ]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(found)
    tokenizer.save(str(out / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, role in _ROLES:
        number = id_of(fields, name, len(tokens), where)
        if number is not None:
            settings[f"{role}_token"] = tokens[number]
    default = True if kind == "llama" or pre == "llama-bpe" else None
    if isinstance(add_bos := fields.get("tokenizer.ggml.add_bos_token", default), bool):
        settings["add_bos_token"] = add_bos
    if template := fields.get("tokenizer.chat_template"):
        if not isinstance(template, str):
            raise UserError(f"{where}: tokenizer.chat_template is not a string")
        settings["chat_template"] = template
    write_json(out / "tokenizer_config.json", settings)


def _byte_level(tokens: Sequence[str], merges: list[tuple[str, str]], splitting: Splitting) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models

    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, merges, ignore_merges=splitting.whole_parts))
    splitting.apply(tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentencepiece(tokens: Sequence[str], kinds: Sequence[Any], fields: Mapping[str, Any], where: str) -> Tokenizer:
    """Return a BPE that merges the two neighbours whose result has the best score, as llama.cpp and SentencePiece do.

    llama.cpp puts a space before each part of a text between special tokens, also if there is one already (`add_space_prefix`).
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    from t2t.export.tokenizer_json import merges_of

    scores = fields.get("tokenizer.ggml.scores")
    scores = scores if isinstance(scores, list) else []
    if len(scores) != len(tokens) or not all(isinstance(score, float) and math.isfinite(score) for score in scores):
        raise UserError(
            f"{where}: tokenizer.ggml.scores does not have one number for each of the {len(tokens):,} tokens"
        )
    ids = {token: i for i, token in enumerate(tokens)}
    unknown = next((token for token, kind in zip(tokens, kinds, strict=True) if kind == UNKNOWN), None)
    merges = merges_of(list(zip(tokens, scores, kinds, strict=True)), ids)
    model = models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=BYTE in kinds)
    tokenizer = Tokenizer(model)
    prefix = fields.get("tokenizer.ggml.add_space_prefix", True) is not False
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if prefix else []),
        ]
    )
    return tokenizer


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
