"""What a trained run answers: the methods of `t2t.Run` that take texts."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float

from t2t.api import inference
from t2t.api.arguments import checked, rows_of
from t2t.api.lengths import Lengths, Name, Rows
from t2t.api.mixing import Mixture, mixture_of, with_adapters
from t2t.decode import Candidate, Decoding, Label, LabelSet, Output, Pooling, Span, score_texts
from t2t.errors import UserError, nearest
from t2t.limits import Generated, Ids, Seed
from t2t.limits import Rows as BatchRows
from t2t.nn.capabilities import Capability
from t2t.train.run import SavedRun
from t2t.types import Params

T = TypeVar("T")
TooLong = Literal["stop", "truncate"]
"""How to handle a text that exceeds the model's positions or the memory: raise an error, or truncate the text."""

_METHODS: tuple[Capability, ...] = ("generate", "fill_mask", "classify", "regress", "tag", "find_span", "embed")
"""Capabilities of models that have a method of the same name."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnsweringRun(SavedRun):
    """A run that answers texts. Its parameters are read at the first use and kept."""

    @functools.cached_property
    def parameters(self) -> Params:
        """The model's parameters, on the devices of this machine."""
        return self.params()

    def forget_parameters(self) -> None:
        """Free the memory of the parameters. The next use reads them again."""
        self.__dict__.pop("parameters", None)
        self.__dict__.pop("mixture", None)

    @checked
    def generate(
        self,
        texts: Sequence[str],
        decoding: Decoding | None = None,
        *,
        max_length: Generated | None = None,
        continue_text: bool = False,
        seed: Seed = 0,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
        adapters: Sequence[str | os.PathLike[str] | None] | None = None,
    ) -> list[str]:
        """Return the best output for each text. Use `outputs` for scores and for all samples or beams.

        Args:
          texts: inputs with the task's prefix ("summarize: ..."). Write sentinels as <extra_id_0>.
          decoding: t2t.Greedy(), t2t.Sampling(temperature=0.8) or t2t.Beam(size=4). Greedy by default.
          max_length: maximum number of tokens to generate. The default is the run's targets_length.
          continue_text: decoders only: continue the text as a language model. If False, an EOS token is appended to the text.
          seed: seed for sampling.
          batch_size: texts per batch.
          too_long: "stop" raises UserError for a text that is too long; "truncate" cuts its end.
          adapters: for each text, the directory of a run with a LoRA of this run, or None for this run alone. The texts share batches.

        Raises:
          UserError: the model cannot generate text, a text is too long, or an adapter is not one of this run.
        """
        found = self.outputs(
            texts,
            decoding,
            max_length=max_length,
            continue_text=continue_text,
            seed=seed,
            batch_size=batch_size,
            too_long=too_long,
            adapters=adapters,
        )
        return [outputs[0].text for outputs in found]

    @checked
    def outputs(
        self,
        texts: Sequence[str],
        decoding: Decoding | None = None,
        *,
        max_length: Generated | None = None,
        continue_text: bool = False,
        seed: Seed = 0,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
        adapters: Sequence[str | os.PathLike[str] | None] | None = None,
    ) -> list[list[Output]]:
        """Return all outputs of `decoding` for each text, with their scores. The arguments are those of `generate`."""
        self._check("generate")
        if continue_text and not self.model.config.can("continue_text"):
            raise UserError(
                f"continue_text: {self.directory} {inference.does(self.model.config)}; only decoders continue a text."
            )

        asked = rows_of(texts)
        mixture, params = None, None
        if adapters is None:
            params = self.parameters
        else:
            asked = with_adapters(asked, adapters)
            mixture = self._mixture(frozenset(row["adapter"] for row in asked if row["adapter"] is not None))

        def compute(rows: Rows, at_once: int, name: Name, start: int) -> list[list[Output]]:
            return inference.infer(
                self,
                [row["inputs"] for row in rows],
                decoding,
                max_length=max_length,
                batch_size=at_once,
                seed=seed + start,
                continue_text=continue_text,
                params=params,
                name=name,
                mixture=mixture,
                adapters=[row.get("adapter") for row in rows],
            )

        return self._asked(asked, compute, batch_size, too_long)

    @checked
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        decoding: Decoding | None = None,
        *,
        template: str | os.PathLike[str] | None = None,
        max_length: Generated | None = None,
        seed: Seed = 0,
    ) -> str:
        """Return the model's answer to a conversation, which its chat template turns into a prompt. The answer ends with the model's turn.

        A special token in a message becomes this token, as in `apply_chat_template` of transformers; a warning names it.

        Args:
          messages: the conversation, oldest message first: [{"role": "user", "content": "..."}]. Roles are "system", "user" and "assistant".
          decoding: t2t.Greedy(), t2t.Sampling(temperature=0.8) or t2t.Beam(size=4). Greedy by default.
          template: file with a chat template: Jinja text or a tokenizer_config.json. The default is the template that an import kept in the run.
          max_length: maximum number of tokens to generate. The default is the run's targets_length.
          seed: seed for sampling.

        Raises:
          UserError: the model is not a decoder, there is no template, the template refuses the conversation, or it is too long for the model.
        """
        from t2t.api.chat import chat_of

        talk = chat_of(self, None if template is None else os.fspath(template))
        prompt = talk.prompt(messages)
        if token := talk.written_by_user(messages):
            log.warning("%s in a message is read as a special token", token)

        def compute(rows: Rows, at_once: int, name: Name, start: int) -> list[list[Output]]:
            return talk.replies(
                self,
                [row["inputs"] for row in rows],
                decoding,
                max_length=max_length,
                batch_size=at_once,
                seed=seed,
                params=self.parameters,
                name=name,
            )

        return self._asked(rows_of([prompt]), compute, 1, "stop")[0][0].text

    @checked
    def score(
        self, inputs: Sequence[str], targets: Sequence[str], *, batch_size: BatchRows = 32
    ) -> Float[np.ndarray, "N"]:
        """Return the log-probability of each target, including its EOS token, given the input at the same index. In nats.

        Raises UserError if the model cannot generate text, if the lists differ in length, or if a text is too long.
        """
        self._check("generate", "score")
        rows, others = rows_of(inputs, "inputs"), rows_of(targets, "targets")
        if len(rows) != len(others):
            raise UserError(f"score: {len(rows)} inputs and {len(others)} targets: the numbers must be equal.")
        pairs = [(one["inputs"], other["inputs"]) for one, other in zip(rows, others, strict=True)]
        found = score_texts(self.model, self.parameters, self.vocabulary, pairs, batch_size=batch_size)
        return np.asarray(found, np.float64)

    @checked
    def fill_mask(
        self, texts: Sequence[str], *, top: Ids = 5, batch_size: BatchRows = 32, too_long: TooLong = "stop"
    ) -> list[list[list[Candidate]]]:
        """Return the `top` most likely tokens and their probabilities for each `<mask>` of each text, best first."""
        self._check("fill_mask")

        def compute(rows: Rows, at_once: int, name: Name, start: int) -> list[list[list[Candidate]]]:
            texts = [row["inputs"] for row in rows]
            return inference.fill(self, texts, top=top, batch_size=at_once, params=self.parameters, name=name)

        return self._asked(rows_of(texts), compute, batch_size, too_long)

    @checked
    def classify(
        self,
        texts: Sequence[str],
        second: Sequence[str] | None = None,
        *,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
    ) -> list[Label] | list[LabelSet]:
        """Return the label of each text or pair of texts, with the probabilities of all labels in the model's order.

        If a text may have several labels (`model.head` "labels"), return those with a probability of at least 0.5.
        """
        self._check("classify")
        return self._answers(rows_of(texts, second=second), batch_size, too_long)

    @checked
    def regress(
        self,
        texts: Sequence[str],
        second: Sequence[str] | None = None,
        *,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
    ) -> Float[np.ndarray, "N K"]:
        """Return the numbers that the model predicts for each text or pair of texts, in the model's order."""
        self._check("regress")
        found = self._answers(rows_of(texts, second=second), batch_size, too_long)
        return np.array([numbers.values for numbers in found], np.float64).reshape(-1, self.model.config.num_labels)

    @checked
    def tag(
        self, texts: Sequence[str], *, batch_size: BatchRows = 32, too_long: TooLong = "stop"
    ) -> list[list[tuple[str, Label]]]:
        """Return the words of each text with their tags."""
        self._check("tag")
        return self._answers(rows_of(texts), batch_size, too_long)

    @checked
    def find_span(
        self,
        questions: Sequence[str],
        texts: Sequence[str],
        *,
        max_length: Generated | None = None,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
    ) -> list[Span]:
        """Return the span of each text that answers the question at the same index. max_length: maximum number of tokens of a span."""
        self._check("find_span")
        return self._answers(rows_of(questions, "questions", second=texts), batch_size, too_long, longest=max_length)

    @checked
    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: Pooling | None = None,
        normalize: bool | None = None,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
    ) -> Float[np.ndarray, "N D"]:
        """Return one vector for each text.

        pooling: "mean", "first", "max", "last", "weighted_mean" or "mean_sqrt" of the encoder outputs, see `model.vector_pooling`. The default is the model's
            own ("mean" if neither a training nor an import has set it).
        normalize: whether to divide each vector by its Euclidean norm. The default is the model's own (`model.vector_normalize`).
        """
        self._check("embed")

        def compute(rows: Rows, at_once: int, name: Name, start: int) -> list[list[float]]:
            return inference.embed(
                self,
                [row["inputs"] for row in rows],
                pooling=pooling,
                normalise=normalize,
                batch_size=at_once,
                params=self.parameters,
                name=name,
            )

        return np.asarray(self._asked(rows_of(texts), compute, batch_size, too_long), np.float64)

    def _check(self, what: Capability, method: str | None = None) -> None:
        config = self.model.config
        if not config.can(what):
            able = [name for name in _METHODS if config.can(name)]
            raise UserError(f"{method or what}: {self.directory} {inference.does(config)}. Nearest: {', '.join(able)}.")

    def _asked(
        self,
        rows: Rows,
        compute: Callable[[Rows, int, Name, int], Sequence[T]],
        batch_size: int,
        too_long: TooLong,
    ) -> list[T]:
        if too_long not in ("stop", "truncate"):
            raise UserError(f"unknown too_long {too_long!r}.{nearest(too_long, ('stop', 'truncate'))}")
        lengths = Lengths(too_long, self.vocabulary, 'too_long="truncate" cuts the end of such texts.')
        found = inference.asked(self, rows, compute, lengths=lengths, batch_size=batch_size)
        answers = [answer for _, answer in found]
        if lengths.message is not None:
            log.warning("%s", lengths.message)
        return answers

    def _mixture(self, names: frozenset[str]) -> Mixture:
        """Return this run with these adapters. The last one is kept."""
        kept: Mixture | None = self.__dict__.get("mixture")
        if kept is None or not names <= set(kept.names):
            kept = self.__dict__["mixture"] = mixture_of(self, self.parameters, sorted(names))
        return kept

    def _answers(self, rows: Rows, batch_size: int, too_long: TooLong, longest: int | None = None) -> list[Any]:
        def compute(some: Rows, at_once: int, name: Name, start: int) -> Sequence[inference.Answer]:
            return inference.answer(self, some, longest=longest, batch_size=at_once, params=self.parameters, name=name)

        return self._asked(rows, compute, batch_size, too_long)
