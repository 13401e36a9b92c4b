"""Jinja prompt templates in promptsource's format, "inputs ||| targets" (Bach et al. 2022, https://arxiv.org/abs/2202.01279)."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jinja2
import jinja2.meta
import jinja2.sandbox

from t2t.errors import UserError

SEPARATOR = "|||"
_ESCAPED = "\ue0fa\ue0fb"  # private-use characters that replace the separator in the text of a field
_RANDOM = "draw of this example"


class Rendered(NamedTuple):
    """Texts that a template renders for one example. `choices` is None without answer choices."""

    inputs: str
    targets: str
    choices: tuple[str, ...] | None


@dataclass(frozen=True, kw_only=True)
class Template:
    """A prompt.

    name:           unique among the templates for the same data.
    jinja:          text "inputs ||| targets". Its variables are the example's fields and `answer_choices`, the list of answers.
    answer_choices: template of all possible answers, separated by " ||| ", for rank classification; None for free text.
    reference:      author of the template.

    Jinja's sandbox renders both templates. As in promptsource, templates can use the function `zip` and the filters `choice` (a
    random item of a list), `most_frequent` (the most frequent items of a list) and `highlight`. A hash of the template name and the fields
    seeds the choice, so an example is rendered the same each time. An unknown variable or attribute is an error.

    Raises:
      UserError: Jinja cannot parse the template, or the separator is missing.
    """

    name: str
    jinja: str
    answer_choices: str | None = None
    reference: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UserError(f"the template {self.jinja!r} has no name.")
        self.variables()
        if SEPARATOR not in self.jinja:
            raise UserError(f"template {self.name!r}: {SEPARATOR} is missing between inputs and targets.")

    def variables(self) -> tuple[str, ...]:
        """Return the sorted fields that the template uses."""
        names: set[str] = set()
        for text in (self.jinja, self.answer_choices or ""):
            try:
                names |= jinja2.meta.find_undeclared_variables(_environment().parse(text))
            except jinja2.TemplateSyntaxError as error:
                raise UserError(f"template {self.name!r}, line {error.lineno}: {error.message}") from None
        return tuple(sorted(names - {"answer_choices"} - set(_environment().globals)))

    def render(self, fields: Mapping[str, Any]) -> Rendered | None:
        """Return the texts of an example, stripped of white space. Return None if inputs or targets are empty or missing.

        Args:
          fields: mapping from variable to text, number, list or dict.

        Raises:
          UserError: Jinja cannot render the template, a second separator, or a target that is not one of the answer choices.
        """
        seed = hashlib.blake2b(repr((self.name, sorted(fields.items()))).encode(), digest_size=8).digest()
        values: dict[str, Any] = {name: _escape(value) for name, value in fields.items()}
        values[_RANDOM] = random.Random(int.from_bytes(seed, "little"))
        choices = None
        if self.answer_choices is not None:
            choices = [choice.strip() for choice in self._text(self.answer_choices, values).split(SEPARATOR)]
        values["answer_choices"] = choices
        parts = [_unescape(part.strip()) for part in self._text(self.jinja, values).split(SEPARATOR)]
        if len(parts) > 2:
            raise UserError(
                f"template {self.name!r}: expected {SEPARATOR} once, but an example has it {len(parts) - 1} times."
            )
        if len(parts) < 2 or not all(parts):
            return None
        answers = None if choices is None else tuple(map(_unescape, choices))
        if answers is not None and parts[1] not in answers:
            raise UserError(
                f"template {self.name!r}: target {parts[1]!r} is not one of the answers: {', '.join(answers)}."
            )
        return Rendered(parts[0], parts[1], answers)

    def _text(self, text: str, values: Mapping[str, Any]) -> str:
        try:
            return _compiled(text).render(values)
        except Exception as error:  # a template is a program: it can raise any exception
            raise UserError(f"template {self.name!r}: {' '.join(str(error).split()) or type(error).__name__}") from None


def slug(name: str) -> str:
    """Return a template's name as the end of a task's name: lower case, with `_` for all other characters than letters and digits."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


@lru_cache(maxsize=1)
def _environment() -> jinja2.sandbox.SandboxedEnvironment:
    environment = jinja2.sandbox.SandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.globals["zip"] = zip
    for name in ("random", "choice"):
        environment.filters[name] = _choice
    del environment.globals["lipsum"]  # also random
    environment.filters["most_frequent"] = _most_frequent
    environment.filters["highlight"] = lambda text: f"<span style='color: #F08080'>{text}</span>"
    return environment


@lru_cache(maxsize=1024)
def _compiled(text: str) -> jinja2.Template:
    return _environment().from_string(text)


@jinja2.pass_context
def _choice(context: jinja2.runtime.Context, items: Sequence[Any]) -> Any:
    if not items:
        raise UserError("choice of an empty list.")
    # Not choice(): only the sequence of random() is guaranteed to be the same in all versions of Python.
    return items[int(context[_RANDOM].random() * len(items))]


def _most_frequent(items: Iterable[Any]) -> list[Any]:
    counts = Counter(items)
    return [item for item, count in counts.items() if count == max(counts.values())]


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(SEPARATOR, _ESCAPED)
    if isinstance(value, list):
        return [_escape(item) for item in value]
    if isinstance(value, dict):
        return {name: _escape(item) for name, item in value.items()}
    return value


def _unescape(text: str) -> str:
    return text.replace(_ESCAPED, SEPARATOR)
