"""Conversations with a run: its chat template, the ids of a prompt, and the end of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from t2t.api import inference
from t2t.api.importing import KEPT
from t2t.api.lengths import Name
from t2t.decode import Decoding, Greedy, Output, generate_prompts
from t2t.decode.rows import text_name
from t2t.errors import UserError
from t2t.export.added_tokens import ROLES
from t2t.export.chat_template import ChatTemplate, Message, template_file, template_in
from t2t.train.run import SavedRun
from t2t.vocabularies import Tokenizer, Vocabulary
from t2t.vocabularies.library import LibraryVocabulary

_REPLY = "reply"


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The chat template of a run.

    vocabulary: the run's vocabulary. The end of a turn is one of its ends.
    special:    texts of the special tokens.
    """

    template: ChatTemplate
    vocabulary: Vocabulary
    special: tuple[str, ...] = ()

    def prompt(self, messages: Sequence[Message], name: str = "messages") -> str:
        """Return the text that the model continues with its answer. Raises UserError like `ChatTemplate.render`."""
        return self.template.render(messages, name=name)

    def ids(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, as `apply_chat_template(messages, add_generation_prompt=True)` of transformers.

        Special tokens become their ids, also those that a user wrote; nothing is put before or after.
        """
        return self.vocabulary.encode(prompt)

    def written_by_user(self, messages: Sequence[Message]) -> str | None:
        """Return a special token that a message contains, which the model will take for its own, or None."""
        return next((token for text in _texts(messages) for token in self.special if token in text), None)

    def replies(
        self,
        run: SavedRun,
        prompts: Sequence[str],
        decoding: Decoding | None = None,
        *,
        max_length: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        params: Any = None,
        name: Name = text_name,
    ) -> list[list[Output]]:
        """Return the outputs for each prompt, see `t2t.api.inference.infer`. Raises UserError if a prompt is too long for the model."""
        return generate_prompts(
            run.model,
            run.params() if params is None else params,
            self.vocabulary,
            [self.ids(prompt) for prompt in prompts],
            Greedy() if decoding is None else decoding,
            length=run.experiment.data.targets_length if max_length is None else max_length,
            batch_size=batch_size,
            key=jax.random.key(seed),
            name=name,
        )


def chat_of(run: SavedRun, file: str | None = None) -> Chat:
    """Return the chat template that an import has kept in the run, or the one in `file`.

    Raises UserError if the run is not a decoder or has no template, or if the template cannot be read.
    """
    if not run.model.config.can("continue_text"):
        raise UserError(f"chat: {run.directory} {inference.does(run.model.config)}; only decoders answer in a chat.")
    vocabulary = run.vocabulary
    if file is None:
        template = template_in(run.directory / KEPT)
        if template is None:
            raise UserError(
                f"{run.directory} has no chat template. Give one with --chat-template FILE (Jinja text, or a tokenizer_config.json)."
            )
    else:
        template = template_file(Path(file), _tokens(vocabulary))
    tokens = vocabulary.special_tokens() if isinstance(vocabulary, LibraryVocabulary) else {}
    end = _end_of_turn(template, vocabulary, set(tokens.values()))
    if end is not None and end not in vocabulary.end_ids:
        vocabulary = replace(vocabulary, ends=(*vocabulary.ends, end))
    return Chat(template=template, vocabulary=vocabulary, special=tuple(tokens))


def _tokens(vocabulary: Vocabulary) -> dict[str, str]:
    """Return the special tokens of a vocabulary by the names that templates use."""
    if not isinstance(vocabulary, Tokenizer):
        return {}
    found = {f"{role}_token": getattr(vocabulary, role) for role in ROLES}
    return {name: token for name, token in found.items() if token is not None}


def _end_of_turn(template: ChatTemplate, vocabulary: Vocabulary, ids: set[int]) -> int | None:
    """Return the special token that the template writes after an answer, or None.

    The end ids in generation_config.json often include it, but not those of a base model with a template.
    """
    messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _REPLY}]
    try:
        text = template.render(messages, add_generation_prompt=False)
    except UserError:  # a template may refuse this conversation, for example if it requires tools
        return None
    _, reply, rest = text.rpartition(_REPLY)
    after = vocabulary.encode(rest) if reply else []
    return after[0] if after and after[0] in ids else None


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _texts(item)] if isinstance(value, list | tuple) else []
