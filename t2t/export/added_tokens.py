"""Tokens that a directory of `transformers` declares beside its tokenizer, put into the tokenizer as `transformers` does.

`added_tokens_decoder` of tokenizer_config.json, where it is there, says all, flags too; else added_tokens.json and special_tokens_map.json count, and the flags of
a token that tokenizer.json has itself stay.
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
    """A token that is found in texts before they are cut.

    number: its id; None where it is named alone. where: the file that declares it.
    wins:   whether its flags replace those that tokenizer.json has. whole: whether flags are declared at all, and not its name alone.
    """

    content: str
    number: int | None
    flags: Mapping[str, bool]
    where: str
    wins: bool = False
    whole: bool = True

    def token(self) -> AddedToken:
        """Return it as the library has it."""
        return AddedToken(self.content, **self.flags)


def json_of(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds, empty where there is no file. Raises UserError for damage."""
    return dict(read_json(path)) if path.is_file() else {}


def named(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return how the roles' tokens ("eos", "mask", ...) are spelled, where tokenizer_config.json (`settings`) or special_tokens_map.json says it."""
    found: dict[str, str] = {}
    for where, values in ((SPECIAL, json_of(directory / SPECIAL)), (CONFIG, settings)):
        for role in ROLES:
            value = values.get(f"{role}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if value is not None:
                found[role] = expect(value, str, f"{directory / where}: {role}_token")
    return found


def declared(directory: Path, settings: Mapping[str, Any]) -> list[Declared]:
    """Return the tokens in the order of their ids, those without one last. Raises UserError for values of another shape."""
    where = str(directory / CONFIG)
    # By name alone; what the tables or the tokenizer itself say of them counts.
    alone: list[Declared] = []
    for values, file in ((json_of(directory / SPECIAL), SPECIAL), (settings, CONFIG)):
        for role in ROLES:
            if (value := values.get(f"{role}_token")) is not None:
                alone.append(_special(value, f"{directory / file}: {role}_token"))
        for name in ("additional_special_tokens", "extra_special_tokens"):
            listed = values.get(name)
            if isinstance(listed, dict):  # by a role of the model's own
                listed = list(listed.values())
            place = f"{directory / file}: {name}"
            alone += [_special(value, place) for value in expect(listed, list, place)] if listed is not None else []
    found: list[Declared] = []
    if "added_tokens_decoder" in settings:
        table = expect(settings["added_tokens_decoder"], dict, f"{where}: added_tokens_decoder")
        for number, value in table.items():
            if not (number.isascii() and number.isdigit() and len(number) < 10):
                raise UserError(f"{where}: added_tokens_decoder: {number[:40]!r} is not an id")
            found.append(_token(value, int(number), f"{where}: added_tokens_decoder[{number}]", wins=True))
    else:
        special = {token.content for token in alone}
        for content, number in json_of(directory / ADDED).items():
            place = f"{directory / ADDED}: {content!r}"
            if expect(number, int, place) < 0:
                raise UserError(f"{place}: {number} is not an id")
            flags = {"special": content in special, "normalized": content not in special}
            found.append(Declared(content=content, number=number, flags=flags, where=place))
    return [*sorted(found, key=lambda token: token.number or 0), *alone]


def _special(value: Any, where: str) -> Declared:
    if isinstance(value, dict):
        return _token({**value, "special": True}, None, where)
    return replace(_token({"content": value, "special": True}, None, where), whole=False)


def _token(value: Any, number: int | None, where: str, *, wins: bool = False) -> Declared:
    content = expect(expect(value, dict, where).get("content"), str, f"{where}: content")
    flags = {name: expect(value[name], bool, f"{where}: {name}") for name in _FLAGS if name in value}
    return Declared(content=content, number=number, flags=flags, where=where, wins=wins)


def put(library: Library, tokens: list[Declared], *, fresh: bool = False) -> bool:
    """Put the declared tokens into the tokenizer, and return whether that changed it.

    fresh: whether the tokenizer is made of a vocabulary alone, which knows no flags.
    One that is named without an id, and that the tokenizer does not know, is left out: no row of the model is its own.
    Raises UserError where a token would get another id than the one declared.
    """
    changed = False
    for token in tokens:
        there = {one.content: one for one in library.get_added_tokens_decoder().values()}.get(token.content)
        known = library.token_to_id(token.content)
        wins = token.wins or (fresh and token.whole)
        if there is not None and (not wins or _flags(there) == _flags(token.token())):
            pass
        elif known is not None or token.number is not None:
            made = token.token()
            (library.add_special_tokens if made.special else library.add_tokens)([made])
            changed = True
        if token.number is not None and library.token_to_id(token.content) != token.number:
            raise UserError(
                f"{token.where}: {token.content!r} is declared as id {token.number}, but the tokenizer's other files make it {library.token_to_id(token.content)}"
            )
    return changed


def _flags(token: AddedToken) -> tuple[bool, ...]:
    return tuple(getattr(token, name) for name in _FLAGS)
