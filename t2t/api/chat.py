"""Conversations with a run: its chat template, the ids of a prompt, and the end of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from t2t.api import inference
from t2t.api.importing import KEPT
from t2t.api.lengths import Name
from t2t.decode import Decoding, Greedy, Output, generate_prompts
from t2t.decode.rows import text_name
from t2t.errors import UserError
from t2t.export.chat_defaults import chat_template, encode, end_of_turn, role_texts, special_tokens
from t2t.export.chat_template import ChatTemplate, Message, template_file, template_in
from t2t.train.run import RECORD, SavedRun
from t2t.vocabularies import Vocabulary

if TYPE_CHECKING:
    from t2t.train.experiment import Experiment


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
        return encode(prompt, self.vocabulary)[0]

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
    """Return the chat template that the run was trained with or that an import has kept in it, or the one in `file`.

    Raises UserError if the run is not a decoder or has no template, or if the template cannot be read.
    """
    if not run.model.config.can("continue_text"):
        raise UserError(f"chat: {run.directory} {inference.does(run.model.config)}; only decoders answer in a chat.")
    vocabulary = run.vocabulary
    if file is not None:
        template = template_file(Path(file), role_texts(vocabulary))
    elif (found := template_of(run)) is not None:
        template = found
    else:
        raise UserError(
            f"{run.directory} has no chat template. Give one with --chat-template FILE (Jinja text, or a tokenizer_config.json)."
        )
    end = end_of_turn(template, vocabulary)
    if end is not None and end not in vocabulary.end_ids:
        vocabulary = replace(vocabulary, ends=(*vocabulary.ends, end))
    return Chat(template=template, vocabulary=vocabulary, special=tuple(special_tokens(vocabulary)))


def template_of(run: SavedRun) -> ChatTemplate | None:
    """Return the chat template that the run was trained with, else the one that an import has kept in it, else None."""
    text = run.record.chat_template
    if text is None:
        return template_in(run.directory / KEPT)
    return chat_template(text, run.vocabulary, str(run.directory / RECORD))


def check_template(experiment: Experiment, vocabulary: Vocabulary) -> str | None:
    """Return the chat template that a training learns, or None if its task is not of conversations. Loads TensorFlow.

    Raises UserError if its tasks have different templates, or have the default one but the run to start from has its own.
    """
    from t2t.data.conversations import chat_among
    from t2t.data.registry import task_names

    chat = chat_among(task_names(experiment.data.task), vocabulary)
    if chat is None:
        return None
    text = chat.template(vocabulary)
    for directory in experiment.start_from.runs if chat.is_default else ():
        own = template_of(SavedRun.load(directory))
        if own is not None and own.text != text:
            raise UserError(
                f"task {experiment.data.task!r} has the default chat template, but {directory} (--start-from.run) has its own, which its model knows."
                f" Nearest: add_chat(template={str(directory)!r})."
            )
    return text


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _texts(item)] if isinstance(value, list | tuple) else []
