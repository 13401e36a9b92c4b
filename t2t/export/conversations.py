"""The ids of conversations for training, and which of them are the model's own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2t.errors import UserError
from t2t.export.chat_defaults import ASKED, encode, end_of_turn, special_tokens
from t2t.export.chat_template import ChatTemplate, Message
from t2t.vocabularies import Vocabulary

Span = tuple[int, int]
_PROBE = "a short conversation"


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A conversation up to the end of an answer.

    ids:     ids of the whole text, those of `apply_chat_template` of `transformers` up to the last end of turn.
    answers: first token and end of each answer that counts, with its end of turn. The last one ends with the ids.
    prompt:  the text before the last answer.
    answer:  the text of the last answer, without its end of turn.
    """

    ids: list[int]
    answers: list[Span]
    prompt: str
    answer: str

    @property
    def weights(self) -> list[int]:
        """1 for each token of an answer, 0 for all others."""
        found = [0] * len(self.ids)
        for start, end in self.answers:
            found[start:end] = [1] * (end - start)
        return found


class ConversationEncoder:
    """Encodes conversations with a chat template.

    The text of an answer is what follows the prompt of generation, so that training predicts exactly what generation has to produce. If the template
    marks the model's own words (`{% generation %}`), the marks count instead.

    end: the token that ends a turn.
    """

    def __init__(self, template: ChatTemplate, vocabulary: Vocabulary) -> None:
        """Raise UserError if the template does not write an answer, or no special token after it: a model trained with it would never stop."""
        self._template, self._vocabulary = template, vocabulary
        if not special_tokens(vocabulary):
            encode("", vocabulary)  # raises the reason
        end = end_of_turn(template, vocabulary)
        if end is None:
            _check_shown(ASKED[1], template.render(ASKED, add_generation_prompt=False, name=_PROBE), f"{_PROBE}[1]")
            raise UserError(
                f"the chat template of {template.where} writes no special token of the vocabulary after an answer, so a model would never learn to stop."
                " Nearest: write eos_token after each answer."
            )
        self.end = end

    def encode(self, messages: Sequence[Message], turns: Sequence[int], name: str = "messages") -> Conversation:
        """Return the ids of a conversation and the answers that count.

        Args:
          messages: the conversation. It ends with the last of `turns`.
          turns: indices of the messages whose words count, in order.
          name: name of the conversation for errors.

        Raises:
          UserError: the template refuses the conversation, does not write an answer or its end, or writes earlier turns in another way
            once the conversation goes on.
        """
        whole = self._template.render(messages, add_generation_prompt=False, name=name)
        if self._template.marks_answers:
            spans = self._marked(messages, turns, name)
        else:
            spans = [self._following(messages, turn, whole, name) for turn in turns]
        ids, places = encode(whole, self._vocabulary)
        answers = []
        for turn, (start, end) in zip(turns, spans, strict=True):
            _check_shown(messages[turn], whole[start:end], f"{name}[{turn}]")
            answers.append(self._tokens(ids, places, start, end, f"{name}[{turn}]"))
        first, last = answers[-1]
        if not first:
            raise UserError(f"{name}: the chat template writes nothing before the answer, so there is no prompt.")
        border, closed = spans[-1][0], places[last - 1][0]
        return Conversation(ids=ids[:last], answers=answers, prompt=whole[:border], answer=whole[border:closed])

    def _following(self, messages: Sequence[Message], turn: int, whole: str, name: str) -> Span:
        """Return the characters of an answer: those between the prompt for it and the text that ends with it."""
        before = self._template.render(messages[:turn], name=name) if turn else ""
        last = turn == len(messages) - 1
        after = whole if last else self._template.render(messages[: turn + 1], add_generation_prompt=False, name=name)
        if not (whole.startswith(after) and after.startswith(before)):
            raise UserError(
                f"{name}: the chat template of {self._template.where} writes message {turn} in another way once the conversation goes on, so its words"
                " cannot be learned in place. Nearest: turns='each', an example for each answer."
            )
        return len(before), len(after)

    def _marked(self, messages: Sequence[Message], turns: Sequence[int], name: str) -> list[Span]:
        spans = self._template.marked_spans(messages, name)
        said = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if len(spans) != len(said):
            raise UserError(
                f"{name}: the chat template of {self._template.where} marks {len(spans)} texts for {len(said)} messages of the assistant."
            )
        return [spans[said.index(turn)] for turn in turns]

    def _tokens(self, ids: Sequence[int], places: Sequence[Span], start: int, end: int, name: str) -> Span:
        """Return the tokens of an answer, up to its end of turn."""
        inside = [i for i, (a, b) in enumerate(places) if b > start and a < end]
        # A template may mark the words of an answer without its end of turn.
        if inside and self.end not in ids[inside[0] : inside[-1] + 1] and inside[-1] + 1 < len(ids):
            inside.append(inside[-1] + 1)
        ends = [i for i in inside if ids[i] == self.end]
        if not ends:
            raise UserError(
                f"{name}: the chat template of {self._template.where} writes no end of turn after this answer, so a model would never learn to stop."
            )
        return inside[0], ends[-1] + 1


def _check_shown(message: Message, text: str, name: str) -> None:
    content = message.get("content")
    if isinstance(content, str) and content.strip() not in text:
        raise UserError(f"{name}: the chat template does not write this answer as it is: {content.strip()[:40]!r}.")
