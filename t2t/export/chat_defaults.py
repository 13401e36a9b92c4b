"""The tokens of chat templates for any vocabulary, and the templates of models that came without one."""

from __future__ import annotations

import functools

from tokenizers import Tokenizer as Library

from t2t.errors import UserError
from t2t.export.added_tokens import ROLES
from t2t.export.chat_template import ChatTemplate
from t2t.export.tokenizer_json import library_of
from t2t.vocabularies import Bytes, SentencePiece, Tokenizer, Vocabulary
from t2t.vocabularies.library import LibraryVocabulary

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
"""The template of vocabularies with the special tokens <|im_start|> and <|im_end|>."""
PLAIN = """\
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}{%- endif -%}
"""
"""The template of all other vocabularies. EOS ends a turn, so that no special token must be learned or added."""
_START = "{{- bos_token -}}\n"
_REPLY = "reply"
ASKED = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _REPLY}]
"""A conversation that shows what a template writes around an answer."""


def default_template(vocabulary: Vocabulary) -> str:
    """Return the template of a vocabulary without one of its own. It starts with the start token if texts of this vocabulary do."""
    known = special_tokens(vocabulary)
    start = _START if isinstance(vocabulary, Tokenizer) and vocabulary.prepends_bos and vocabulary.bos else ""
    return start + (CHATML if {"<|im_start|>", "<|im_end|>"} <= known.keys() else PLAIN)


def chat_template(text: str, vocabulary: Vocabulary, where: str) -> ChatTemplate:
    """Return a template with the special tokens of a vocabulary. Raises UserError if Jinja cannot parse it."""
    return ChatTemplate(text=text, where=where, tokens=role_texts(vocabulary))


def role_texts(vocabulary: Vocabulary) -> dict[str, str]:
    """Return the special tokens of a vocabulary by the names that templates use, as an export to `transformers` has them."""
    if isinstance(vocabulary, Tokenizer):
        found = {f"{role}_token": getattr(vocabulary, role) for role in ROLES}
        return {name: token for name, token in found.items() if token is not None}
    names = {number: token for token, number in special_tokens(vocabulary).items()}
    ids = {"eos_token": vocabulary.eos_id, "bos_token": vocabulary.bos_id, "unk_token": vocabulary.unk_id}
    return {role: names[number] for role, number in ids.items() if number in names}


def special_tokens(vocabulary: Vocabulary) -> dict[str, int]:
    """Return the text and the id of each special token. A text that contains one gets its id."""
    if isinstance(vocabulary, LibraryVocabulary):
        return vocabulary.special_tokens()
    if not isinstance(vocabulary, Bytes | SentencePiece):
        return {}
    tokens = _library(vocabulary).get_added_tokens_decoder().items()
    return {token.content: number for number, token in tokens if token.special}


def encode(text: str, vocabulary: Vocabulary) -> tuple[list[int], list[tuple[int, int]]]:
    """Return the ids of a text with special tokens, and the characters of each, as `apply_chat_template` of `transformers` has them.

    Raises UserError if the vocabulary has no special tokens in texts.
    """
    found = _library(vocabulary).encode(text, add_special_tokens=False)
    return found.ids, found.offsets


@functools.lru_cache(maxsize=8)
def _library(vocabulary: Vocabulary) -> Library:
    try:
        return library_of(vocabulary)
    except UserError:
        raise UserError(
            f"vocabulary {type(vocabulary).__name__} has no special tokens in texts, which a chat needs. Nearest: Bytes, SentencePiece or Tokenizer."
        ) from None


def end_of_turn(template: ChatTemplate, vocabulary: Vocabulary) -> int | None:
    """Return the special token that the template writes after an answer, or None.

    The end ids in generation_config.json often include it, but not those of a base model with a template.
    """
    try:
        text = template.render(ASKED, add_generation_prompt=False)
    except UserError:  # a template may refuse this conversation, for example if it requires tools
        return None
    _, reply, rest = text.rpartition(_REPLY)
    special = set(special_tokens(vocabulary).values())
    after = encode(rest, vocabulary)[0] if reply and special else []
    return next((token for token in after if token in special), None)
