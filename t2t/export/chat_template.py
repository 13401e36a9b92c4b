"""Chat templates of `transformers`: read them from a tokenizer's files, and render conversations.

A chat template is Jinja text that turns a list of messages into the text that the model was trained on
(https://huggingface.co/docs/transformers/chat_templating). It may come from a stranger, so it is rendered in Jinja's sandbox.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from t2t.errors import UserError
from t2t.export.added_tokens import CONFIG, json_of, role_tokens
from t2t.json_files import expect, read_json
from t2t.stored_paths import check_links

FILE = "chat_template.jinja"
"""Name of the file of a template. It takes precedence over the template in tokenizer_config.json."""
Message = Mapping[str, Any]
"""A message: "role" ("system", "user", "assistant", ...) and "content"; a template may read further fields."""
_DEFAULT = "default"
_GENERATION = re.compile(r"\{%[-+]?\s*generation\b")
_START, _END = "\ufdd0", "\ufdd1"
"""Marks of the model's own words in a marked text. Unicode reserves these code points for use inside a program."""
_REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of an assistant's reasoning. A template may read any of the first two, whichever name the message has."""


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template.

    text:   the Jinja text.
    where:  its file, for errors.
    tokens: the special tokens that the template can name: "bos_token" -> "<s>".

    Raises:
      UserError: Jinja cannot parse the template.
    """

    text: str
    where: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            _compiled(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"{self.where}: the chat template, line {error.lineno}: {error.message}") from None

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True, name: str = "messages") -> str:
        """Return the text of a conversation, as `apply_chat_template(messages, tokenize=False)` of transformers.

        Args:
          messages: the conversation, oldest message first. The values are those of JSON.
          add_generation_prompt: end with what starts an answer of the model.
          name: name of the conversation for errors.

        Raises:
          UserError: a message is malformed, or the template refuses the conversation.
        """
        return self._rendered(messages, add_generation_prompt, name, marked=False)

    @property
    def marks_answers(self) -> bool:
        """Whether the template marks the model's own words with the block `{% generation %}`."""
        return _GENERATION.search(self.text) is not None

    def marked_spans(self, messages: Sequence[Message], name: str = "messages") -> list[tuple[int, int]]:
        """Return the start and the end, in characters of `render(messages, add_generation_prompt=False)`, of each text that the template marks.

        Raises UserError like `render`, or if the template changes its text where it is marked.
        """
        spans, start, size, plain = [], 0, 0, []
        for piece in re.split(f"([{_START}{_END}])", self._rendered(messages, False, name, marked=True)):
            if piece == _START:
                start = size
            elif piece == _END:
                spans.append((start, size))
            else:
                plain.append(piece)
                size += len(piece)
        if "".join(plain) != self._rendered(messages, False, name, marked=False):
            raise UserError(f"{name}: the chat template of {self.where} changes the text inside its generation block.")
        return spans

    def _rendered(self, messages: Sequence[Message], add_generation_prompt: bool, name: str, *, marked: bool) -> str:
        given = [_message(message, f"{name}[{i}]") for i, message in enumerate(_listed(messages, name))]
        values = {"tools": None, "documents": None, **self.tokens}
        try:
            template = _compiled(self.text, marked=marked)
            return template.render(messages=given, add_generation_prompt=add_generation_prompt, **values)
        except Exception as error:  # a template is a program: it can raise any exception
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(f"{name}: the chat template of {self.where} says: {reason}") from None


def template_in(directory: Path) -> ChatTemplate | None:
    """Return the template of a directory with the tokenizer files of `transformers`, or None if it has none.

    Of several named templates, it is the one called "default". Raises UserError if a file is damaged or there is no such template.
    """
    if not directory.is_dir():
        return None
    check_links(directory, {Path(FILE).suffix, Path(CONFIG).suffix})
    file, settings = directory / FILE, json_of(directory / CONFIG)
    tokens = {f"{role}_token": token for role, token in role_tokens(directory, settings).items()}
    if file.is_file():
        return ChatTemplate(text=_text(file), where=str(file), tokens=tokens)
    where = str(directory / CONFIG)
    found = settings.get("chat_template")
    return None if found is None else ChatTemplate(text=_default(found, where), where=where, tokens=tokens)


def template_file(file: Path, tokens: Mapping[str, str]) -> ChatTemplate:
    """Return the template in a file: Jinja text, or a tokenizer_config.json with its special tokens.

    tokens: the special tokens for a file of Jinja text.
    Raises UserError if the file cannot be read or has no template.
    """
    where = f"{file} (--chat-template)"
    if not file.is_file():
        raise UserError(f"{where}: no such file. Nearest: a file of Jinja text, or a tokenizer_config.json.")
    if file.suffix != ".json":
        return ChatTemplate(text=_text(file), where=str(file), tokens=tokens)
    settings = read_json(file)
    if settings.get("chat_template") is None:
        raise UserError(f"{where} has no chat_template. Nearest: {file.with_name(FILE)}.")
    named = {f"{role}_token": token for role, token in role_tokens(file.parent, settings).items()}
    return ChatTemplate(text=_default(settings["chat_template"], str(file)), where=str(file), tokens=named)


def _default(found: Any, where: str) -> str:
    """Return the template of tokenizer_config.json: a text, or the default one of a list of named texts."""
    if isinstance(found, list):
        place = f"{where}: chat_template"
        named: dict[str, str] = {}
        for item in found:
            entry = expect(item, dict, place)
            named[expect(entry.get("name"), str, f"{place}: name")] = expect(
                entry.get("template"), str, f"{place}: template"
            )
        if _DEFAULT not in named:
            raise UserError(
                f"{place} has no template called {_DEFAULT!r}, only {', '.join(named) or 'an empty list'}: write one to a file for"
                " --chat-template"
            )
        return named[_DEFAULT]
    text: str = expect(found, str, f"{where}: chat_template")
    return text


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None


def _listed(messages: Any, name: str) -> Sequence[Any]:
    if not isinstance(messages, list | tuple) or not messages:
        shown = "is empty" if isinstance(messages, list | tuple) else f"is {type(messages).__name__}"
        raise UserError(f'{name} {shown}. Nearest: [{{"role": "user", "content": "..."}}].')
    return messages


def _message(message: Any, name: str) -> dict[str, Any]:
    """Return a message as a template sees it: plain values, without the fields that are None."""
    if not isinstance(message, Mapping):
        raise UserError(f'{name} is {type(message).__name__}. Nearest: {{"role": "user", "content": "..."}}.')
    if not isinstance(message.get("role"), str):
        raise UserError(f"{name} has no role. Nearest: system, user, assistant.")
    plain: dict[str, Any] = _plain({key: value for key, value in message.items() if value is not None}, name)
    reasoning = next((plain[key] for key in _REASONING if key in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _plain(value: Any, name: str) -> Any:
    """Return a copy of exactly JSON's types: methods of other objects would be open to the template."""
    if value is None or type(value) in (bool, int, float):
        return value
    if type(value) is str:
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise UserError(f"{name} is not valid text: it has an unpaired surrogate.")
        return value
    if isinstance(value, Mapping):
        return {_plain(key, name): _plain(item, f"{name}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    raise UserError(f"{name} is {type(value).__name__}, which a template cannot read. Nearest: text.")


class _Generation(jinja2.ext.Extension):
    """The block `{% generation %}`, which marks the model's own words for training. Here it only renders its content."""

    tags = {"generation"}  # noqa: RUF012 (an instance variable for its base class)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        return jinja2.nodes.Scope(self._body(parser), lineno=line)

    def _body(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Marked(_Generation):
    """The block `{% generation %}`, which writes marks around its content."""

    def _body(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        start, end = (jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)]) for mark in (_START, _END))
        return [start, *super()._body(parser), end]


@lru_cache(maxsize=2)
def _environment(marked: bool) -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Marked if marked else _Generation],
    )
    # Jinja's own filter escapes for HTML.
    environment.filters["tojson"] = _json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment


@lru_cache(maxsize=16)
def _compiled(text: str, marked: bool = False) -> jinja2.Template:
    return _environment(marked).from_string(text)


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
