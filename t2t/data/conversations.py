"""Rows of conversations for a decoder, and what a run must know of the chat tasks that it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from t2t.data.converters import Example, FeatureConverter
from t2t.data.filling import RowPositions, sizes_of
from t2t.data.kind_converters import DecoderConverter
from t2t.errors import UserError
from t2t.types import Batch
from t2t.vocabularies import Vocabulary

WEIGHTS = "input_weights"
"""Feature with a value for each of the `inputs`: 1 if it is the model's own word in an earlier turn, else 0."""


@dataclass(frozen=True, kw_only=True)
class ConversationConverter(DecoderConverter):
    """Rows of whole conversations. `inputs` are the tokens before the last answer, `targets` are the last answer.

    The loss covers the last answer and the earlier answers that `input_weights` marks. A conversation has its own start token: its first token, which is not predicted.
    """

    @property
    def own_features(self) -> tuple[str, ...]:
        """Inputs, targets, and the weights of the inputs."""
        return ("inputs", "targets", WEIGHTS)

    @property
    def lengths(self) -> dict[str, int]:
        """`inputs_length` for the prompt of the last answer. A conversation may fill the row."""
        return {
            "inputs": self.inputs_length,
            "targets": self.inputs_length + self.targets_length,
            WEIGHTS: self.inputs_length,
        }

    @property
    def leader(self) -> str:
        """`inputs`."""
        return "inputs"

    @property
    def followers(self) -> tuple[str, ...]:
        """The weights of the inputs."""
        return (WEIGHTS,)

    @property
    def start_id(self) -> int | None:
        """None: the inputs begin with the start token."""
        return None

    def prompts(self, examples: Sequence[Example]) -> Batch:
        """Return the inputs."""
        inputs = [example["inputs"] for example in examples]
        decoder = RowPositions([1] * len(inputs), sizes_of(inputs), self.inputs_length).tokens(inputs)
        zeros = np.zeros_like(decoder.ids)
        return Batch(encoder=None, decoder=decoder, targets=zeros, weights=zeros.astype(np.float32))

    def _tokens(self, example: Example) -> tuple[int, ...]:
        return (len(example["inputs"]) + len(example["targets"]) - 1,)

    def _batch(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[Batch, RowPositions, np.ndarray]:
        whole = [np.concatenate([example["inputs"], example["targets"]]) for example in examples]
        own = [np.concatenate([x[WEIGHTS], np.ones(len(x["targets"]), np.int32)])[1:] for x in examples]
        positions = RowPositions(counts, sizes_of(own), self.inputs_length + self.targets_length)
        wanted = positions.scatter([ids[1:] for ids in whole], np.int32)
        # No prefix: tokens that attend to later ones cannot be predicted.
        decoder = positions.tokens([ids[:-1] for ids in whole])
        weights = [np.where(weight > 0, np.float32(1), np.float32(self.loss_on_inputs)) for weight in own]
        before = sizes_of([example["inputs"] for example in examples]) - 1
        batch = Batch(encoder=None, decoder=decoder, targets=wanted, weights=positions.scatter(weights, np.float32))
        return batch, positions, before


def conversations(converter: FeatureConverter) -> FeatureConverter:
    """Return the converter of a chat task (`tasks.add(converter=...)`). Raises UserError if the model is an encoder."""
    if isinstance(converter, DecoderConverter):
        return ConversationConverter(**{field.name: getattr(converter, field.name) for field in fields(converter)})
    if converter.kind == "encoder":
        raise UserError("an encoder cannot answer in a chat. Nearest: a decoder or an encoder-decoder.")
    return converter


class Chat(Protocol):
    """What a chat task fixes for a run that trains on it."""

    def template(self, vocabulary: Vocabulary) -> str:
        """Return the Jinja text of the chat template."""

    def ends(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Return the ids that end a turn."""

    @property
    def is_default(self) -> bool:
        """Whether the template is the default one of the vocabulary."""


chats: dict[str, Chat] = {}
"""Task -> its chat. `t2t.tasks.add_chat` adds to it."""


def chat_among(tasks: Sequence[str], vocabulary: Vocabulary) -> Chat | None:
    """Return the chat of the tasks of a training, or None if they are not chat tasks. Raises UserError if two tasks have different templates."""
    found = {task: chats[task] for task in tasks if task in chats}
    for first, second in zip(found, list(found)[1:], strict=False):
        if found[first].template(vocabulary) != found[second].template(vocabulary):
            raise UserError(f"tasks {first!r} and {second!r} have different chat templates, and a run has one.")
    return next(iter(found.values()), None)


def with_ends(tasks: Sequence[str], vocabulary: Vocabulary) -> Vocabulary:
    """Return the vocabulary, in which the end of a turn of the chat tasks among `tasks` ends a generated text."""
    chat = chat_among(tasks, vocabulary)
    more = () if chat is None else tuple(i for i in chat.ends(vocabulary) if i not in vocabulary.end_ids)
    return replace(vocabulary, ends=(*vocabulary.ends, *more)) if more else vocabulary
