"""Register tasks of conversations: supervised fine-tuning of a chat model, with the loss on the model's own words only."""

from __future__ import annotations

import functools
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import seqio
import tensorflow as tf

from t2t.data.conversations import WEIGHTS, conversations
from t2t.data.registry import set_converter
from t2t.data.vocabularies import from_seqio, of_targets
from t2t.errors import UserError, nearest
from t2t.export.chat_defaults import chat_template, default_template
from t2t.export.conversations import Conversation, ConversationEncoder
from t2t.tasks.chat_templates import given_template
from t2t.tasks.objectives.features import seqio_vocabulary
from t2t.tasks.register import check_name
from t2t.tasks.sources.conversations import FIELD, chat, place_of
from t2t.tasks.sources.files import FileSource, Patterns
from t2t.vocabularies import Vocabulary

_log = logging.getLogger(__name__)
Turns = Literal["all", "each"]
TooLong = Literal["drop", "cut", "stop"]
Messages = list[dict[str, Any]]
Lengths = Mapping[str, int] | None


def add_chat(
    name: str,
    *,
    source: seqio.DataSource | Patterns | Mapping[str, Patterns],
    template: str | None = None,
    turns: Turns = "all",
    too_long: TooLong = "drop",
    metrics: Sequence[Callable[..., Mapping[str, Any]]] = (),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    postprocess: Callable[..., Any] | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of conversations and return it. Only the words of the assistant have a loss, with the token that ends a turn.

    A decoder learns all answers of a conversation at once, an encoder-decoder the last one. Evaluation generates the last answer.
    A conversation is used up to its last answer.

    Args:
      source: files (`t2t.tasks.sources.chat`), or a data source whose field `messages` is the JSON text of a list of messages.
      template: a chat template: a file of Jinja text, a tokenizer_config.json, a directory of a run or of `transformers`, or the Jinja text itself. Default:
        ChatML if the vocabulary has its tokens, else a plain template in which EOS ends a turn.
      turns: "all" for one example of a conversation, or "each" for one example of each answer, in which only this answer counts. Templates that change
        earlier turns, for example leave out their reasoning, need "each".
      too_long: what to do with a conversation whose prompt is longer than `inputs_length`, or that does not fit a row: "drop" it and count it,
        "cut" the turns at its end that do not fit, or "stop". No answer is ever cut in the middle.
      metrics, vocabulary, postprocess, keep, replace: see `t2t.tasks.add`.

    Raises:
      UserError: the name is taken, an option is unknown, or there is no such template. Errors in a conversation are raised when it is first read,
        with the name of file and line.
    """
    check_name(name, seqio.TaskRegistry, replace=replace)
    for option, value, known in (("turns", turns, Turns), ("too_long", too_long, TooLong)):
        if value not in get_args(known):
            raise UserError(
                f"{option}={value!r} of task {name!r}: unknown value.{nearest(str(value), get_args(known))}"
            )
    found = source if isinstance(source, seqio.DataSource) else chat(source)
    if isinstance(found, FileSource):
        found = found.with_fields([FIELD, *keep])
    asked = ChatTask(name=name, text=None if template is None else given_template(template))
    resolved = seqio_vocabulary(vocabulary)
    features = {
        "inputs": seqio.Feature(resolved, add_eos=False),
        "targets": seqio.Feature(of_targets(resolved), add_eos=False),
        WEIGHTS: seqio.Feature(seqio.PassThroughVocabulary(size=2), add_eos=False),
    }
    step = Conversations(task=name, source=found, chat=asked, turns=turns, too_long=too_long, keep=tuple(keep))
    task = seqio.Task(
        name,
        source=found,
        output_features=features,
        preprocessors=[step],
        postprocess_fn=postprocess,
        metric_fns=list(metrics),
    )
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add_provider(name, task)
    set_converter(name, conversations, chat=asked)
    return task


@dataclass(frozen=True, kw_only=True)
class ChatTask:
    """The chat template of a task. text: its Jinja text; None for the default template of the vocabulary."""

    name: str
    text: str | None

    @property
    def is_default(self) -> bool:
        """Whether the template is the default one of the vocabulary."""
        return self.text is None

    def template(self, vocabulary: Vocabulary) -> str:
        """Return the Jinja text."""
        return default_template(vocabulary) if self.text is None else self.text

    def ends(self, vocabulary: Vocabulary) -> tuple[int, ...]:
        """Return the id that ends a turn. Raises UserError if the template writes none."""
        return (self.encoder(vocabulary).end,)

    def encoder(self, vocabulary: Vocabulary) -> ConversationEncoder:
        """Return the encoder of conversations. Raises UserError if the template writes no end of a turn."""
        return _encoder(self.template(vocabulary), vocabulary, f"task {self.name!r}")


@functools.lru_cache(maxsize=16)
def _encoder(text: str, vocabulary: Vocabulary, where: str) -> ConversationEncoder:
    return ConversationEncoder(chat_template(text, vocabulary, where), vocabulary)


@dataclass(kw_only=True)
class Tally:
    """Counts what is left out, and reports the 1st, 10th, 100th, ... case of each reason in the log."""

    task: str
    read: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, detail: str) -> None:
        """Count a case."""
        self.counts[reason] += 1
        count = self.counts[reason]
        if str(count).strip("0") == "1":
            _log.warning("task %s: %d of %d conversations so far: %s (%s)", self.task, count, self.read, reason, detail)


@dataclass(frozen=True, kw_only=True)
class Conversations:
    """Preprocessor that turns conversations into `inputs` (the tokens before the last answer), `input_weights` and `targets` (the last answer).

    output_features, sequence_length: SeqIO sets them, because the vocabulary and the lengths belong to the run.
    """

    task: str
    source: seqio.DataSource
    chat: ChatTask
    turns: Turns
    too_long: TooLong
    keep: tuple[str, ...]
    output_features: Mapping[str, seqio.Feature] | None = None
    sequence_length: Lengths = None

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Return the dataset of ids. Raises UserError if the source has no field `messages`, or if the template writes no end of a turn."""
        spec = dataset.element_spec
        for name in (FIELD, *self.keep):
            if name not in spec:
                raise UserError(f"task {self.task!r}: the source has no field {name!r}.{nearest(name, spec)}")
        assert self.output_features is not None, "SeqIO sets the features"
        encoder = self.chat.encoder(from_seqio(self.output_features["inputs"].vocabulary))
        tally = Tally(task=self.task)
        types = [tf.int32, tf.int32, tf.int32, tf.string, tf.string]

        def made(text: bytes) -> list[Any]:
            found = self._made(text.decode("utf-8"), encoder, tally)
            if found is None:
                none: np.ndarray = np.zeros(0, np.int32)
                return [none, none, none, b"", b""]
            start = found.answers[-1][0]
            arrays = [np.array(ids, np.int32) for ids in (found.ids[:start], found.weights[:start], found.ids[start:])]
            return [*arrays, found.prompt.encode("utf-8"), found.answer.encode("utf-8")]

        def example(fields: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            # TensorFlow can save an iterator only over stateless functions.
            inputs, weights, targets, prompt, answer = tf.numpy_function(made, [fields[FIELD]], types, stateful=False)
            ids = {"inputs": inputs, WEIGHTS: weights, "targets": targets}
            texts = {"inputs_pretokenized": prompt, "targets_pretokenized": answer}
            return {
                **{name: fields[name] for name in self.keep},
                **{name: tf.ensure_shape(value, [None]) for name, value in ids.items()},
                **{name: tf.ensure_shape(value, []) for name, value in texts.items()},
            }

        if self.turns == "each":
            dataset = dataset.flat_map(_each_turn)
        return dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE).filter(lambda x: tf.size(x["targets"]) > 0)

    def _made(self, text: str, encoder: ConversationEncoder, tally: Tally) -> Conversation | None:
        """Return a conversation, or None if it is left out."""
        tally.read += 1
        messages: Messages = json.loads(text)
        turns = learned(messages)
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        try:
            while turns:
                counted = turns[-1:] if self.turns == "each" else turns
                found = encoder.encode(plain[: turns[-1] + 1], counted, f"task {self.task!r}: messages")
                problem = _too_long(found, self.sequence_length)
                if problem is None:
                    return found
                if self.too_long == "stop":
                    raise UserError(f"task {self.task!r}: {problem} (too_long='stop')")
                if self.too_long == "drop" or self.turns == "each":
                    break
                turns = turns[:-1]
        except UserError as error:
            if getattr(self.source, "on_bad", "stop") == "stop":
                place = None if self.turns == "each" else place_of(self.source, text)
                raise UserError(f"{place or _beginning(plain)}: {error}") from None
            tally.add("bad, skipped (on_bad='skip')", str(error))
            return None
        tally.add("too long, dropped", problem or "")
        return None


def learned(messages: Messages) -> list[int]:
    """Return the indices of the messages of the assistant that are learned."""
    return [i for i, x in enumerate(messages) if x["role"] == "assistant" and x.get("weight", 1)]


def _each_turn(fields: Mapping[str, tf.Tensor]) -> tf.data.Dataset:
    """Return an example of each answer that is learned: the conversation up to it."""

    def parts(text: bytes) -> np.ndarray:
        messages: Messages = json.loads(text)
        return np.array([json.dumps(messages[: i + 1]).encode() for i in learned(messages)], object)

    texts = tf.numpy_function(parts, [fields[FIELD]], tf.string, stateful=False)
    texts.set_shape([None])
    return tf.data.Dataset.from_tensor_slices(texts).map(lambda text: {**fields, FIELD: text})


def _too_long(found: Conversation, lengths: Lengths) -> str | None:
    """Return why a conversation is too long, or None. The lengths of a decoder have weights: its targets may fill the row."""
    if lengths is None:
        return None
    prompt, whole = found.answers[-1][0], len(found.ids)
    if prompt > lengths["inputs"]:
        return f"the prompt of the last answer has {prompt} tokens, more than inputs_length={lengths['inputs']}"
    size, what = (whole - 1, "conversation") if WEIGHTS in lengths else (whole - prompt, "last answer")
    if size > lengths["targets"]:
        limit = "the row" if WEIGHTS in lengths else "targets_length"
        return f"the {what} has {size} tokens, more than {limit} of {lengths['targets']}"
    return None


def _beginning(messages: Messages) -> str:
    return f"the conversation that begins with {next((m['content'] for m in messages), '')[:60]!r}"
