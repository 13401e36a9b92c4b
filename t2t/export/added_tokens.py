"""Added tokens of a `transformers` tokenizer: read them from its files and add them to the tokenizer as `transformers` does.

If tokenizer_config.json has `added_tokens_decoder`, that table defines all tokens and their flags. Otherwise added_tokens.json and
special_tokens_map.json do, and tokens of tokenizer.json keep their flags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as Library

from t2t.errors import UserError
from t2t.json_files import expect, read_json

CONFIG, SPECIAL, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
ROLES = ("eos", "bos", "unk", "pad", "mask", "cls", "sep")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


@dataclass(frozen=True, kw_only=True)
class Declared:
    """An added token: it is found in a text before the text is tokenised.

    number:    its id, or None if the file gives only its text.
    where:     the file and key that declare it, for error messages.
    overrides: whether its flags replace those in tokenizer.json.
    has_flags: whether the file gives flags, not only the text.
    """

    content: str
    number: int | None
    flags: Mapping[str, bool]
    where: str
    overrides: bool = False
    has_flags: bool = True

    def token(self) -> AddedToken:
        """Return it as a token of the `tokenizers` library."""
        return AddedToken(self.content, **self.flags)


def json_of(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or {} if the file does not exist. Raises UserError if the file is damaged."""
    return dict(read_json(path)) if path.is_file() else {}


def role_tokens(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return role ("eos", "mask", ...) -> token, as given by tokenizer_config.json (`settings`) or special_tokens_map.json."""
    found: dict[str, str] = {}
    for where, values in ((SPECIAL, json_of(directory / SPECIAL)), (CONFIG, settings)):
        for role in ROLES:
            value = values.get(f"{role}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if value is not None:
                found[role] = expect(value, str, f"{directory / where}: {role}_token")
    return found


def declared_tokens(directory: Path, settings: Mapping[str, Any]) -> list[Declared]:
    """Return the added tokens in the order of their ids, tokens without an id last. Raises UserError if a value is malformed."""
    where = str(directory / CONFIG)
    # Tokens without an id: the tables below or the tokenizer itself define them.
    without_id: list[Declared] = []
    for values, file in ((json_of(directory / SPECIAL), SPECIAL), (settings, CONFIG)):
        for role in ROLES:
            if (value := values.get(f"{role}_token")) is not None:
                without_id.append(_special(value, f"{directory / file}: {role}_token"))
        for name in ("additional_special_tokens", "extra_special_tokens"):
            listed = values.get(name)
            if isinstance(listed, dict):  # role -> token
                listed = list(listed.values())
            place = f"{directory / file}: {name}"
            without_id += (
                [_special(value, place) for value in expect(listed, list, place)] if listed is not None else []
            )
    found: list[Declared] = []
    if "added_tokens_decoder" in settings:
        table = expect(settings["added_tokens_decoder"], dict, f"{where}: added_tokens_decoder")
        for number, value in table.items():
            if not (number.isascii() and number.isdigit() and len(number) < 10):
                raise UserError(f"{where}: added_tokens_decoder: {number[:40]!r} is not an id")
            found.append(_token(value, int(number), f"{where}: added_tokens_decoder[{number}]", overrides=True))
    else:
        special = {token.content for token in without_id}
        for content, number in json_of(directory / ADDED).items():
            place = f"{directory / ADDED}: {content!r}"
            if expect(number, int, place) < 0:
                raise UserError(f"{place}: {number} is not an id")
            flags = {"special": content in special, "normalized": content not in special}
            found.append(Declared(content=content, number=number, flags=flags, where=place))
    return [*sorted(found, key=lambda token: token.number or 0), *without_id]


def _special(value: Any, where: str) -> Declared:
    if isinstance(value, dict):
        return _token({**value, "special": True}, None, where)
    return replace(_token({"content": value, "special": True}, None, where), has_flags=False)


def _token(value: Any, number: int | None, where: str, *, overrides: bool = False) -> Declared:
    content = expect(expect(value, dict, where).get("content"), str, f"{where}: content")
    flags = {name: expect(value[name], bool, f"{where}: {name}") for name in _FLAGS if name in value}
    return Declared(content=content, number=number, flags=flags, where=where, overrides=overrides)


def add_tokens(library: Library, tokens: list[Declared], *, fresh: bool = False) -> bool:
    """Add tokens to the tokenizer. Return whether the tokenizer changed.

    fresh: whether the tokenizer was built from a vocabulary without flags.

    Skips a token without an id that the tokenizer does not have: the model has no embedding for it.
    Raises UserError if a token would get an id other than the declared one.
    """
    changed = False
    for token in tokens:
        old = {one.content: one for one in library.get_added_tokens_decoder().values()}.get(token.content)
        known = library.token_to_id(token.content)
        overrides = token.overrides or (fresh and token.has_flags)
        if old is not None and (not overrides or _flags(old) == _flags(token.token())):
            pass
        elif known is not None or token.number is not None:
            new = token.token()
            (library.add_special_tokens if new.special else library.add_tokens)([new])
            changed = True
        if token.number is not None and library.token_to_id(token.content) != token.number:
            raise UserError(
                f"{token.where}: {token.content!r} is declared as id {token.number},"
                f" but the tokenizer's other files give it id {library.token_to_id(token.content)}"
            )
    return changed


def _flags(token: AddedToken) -> tuple[bool, ...]:
    return tuple(getattr(token, name) for name in _FLAGS)
