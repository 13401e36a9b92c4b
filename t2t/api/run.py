"""`t2t.Run`: a trained run, to ask, evaluate, export and train on."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float

from t2t.api import inference
from t2t.api.lengths import Lengths, Name, Rows
from t2t.decode import Candidate, Decoding, Label, Output, Pooling, Span, score_texts
from t2t.errors import UserError, nearest
from t2t.limits import CountOrZero, Few, Generated, Ids, Length, OutOfLimits, Seed, check_arguments
from t2t.limits import Rows as BatchRows
from t2t.nn.capabilities import Capability
from t2t.train.evaluation import EvalResult
from t2t.train.few_shot import Calibration
from t2t.train.run import SavedRun
from t2t.types import Params

P = ParamSpec("P")
T = TypeVar("T")
TooLong = Literal["stop", "truncate"]
"""Of a text longer than the model's positions, or than memory allows: stop with an error, or leave its end out."""

_METHODS: dict[Capability, str] = {
    "generate": "generate",
    "fill_mask": "fill_mask",
    "classify": "classify",
    "tag": "tag",
    "find_span": "find_span",
    "embed": "embed",
}
"""What a model can do -> the method that does it."""

log = logging.getLogger(__name__)


def _checked(method: Callable[P, T]) -> Callable[P, T]:
    """Check the arguments' limits, declared in their types, and name them as Python does."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            check_arguments(method, signature.bind(*args, **kwargs).arguments)
        except OutOfLimits as error:
            raise error.at(f"Run.{method.__name__}") from None
        return method(*args, **kwargs)

    return checked


@dataclass(frozen=True)
class Run(SavedRun):
    """A run at one of its checkpoints. Its parameters are read when they are first needed, and kept.

    Methods that a model cannot do (`generate` of an encoder) raise UserError, which names those that it can.
    """

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}, step={self.step})"

    @functools.cached_property
    def parameters(self) -> Params:
        """The model's parameters, on this machine's devices."""
        return self.params()

    def forget_parameters(self) -> None:
        """Free the parameters' memory; they are read again when they are needed."""
        self.__dict__.pop("parameters", None)

    @_checked
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
    ) -> list[str]:
        """Return the best generated text for each text; `outputs` has scores, and all samples or hypotheses.

        Args:
          texts: with the task's prefix ("summarize: ..."); sentinels are written <extra_id_0>.
          decoding: t2t.Greedy(), t2t.Sampling(temperature=0.8) or t2t.Beam(size=4); greedy if None.
          max_length: tokens to generate at most; the run's targets_length if None.
          continue_text: of decoders: go on with the text itself, as a language model; else an end-of-sequence token stands behind it.
          seed: of sampling.
          batch_size: texts computed at a time.
          too_long: what to do with a text longer than the model takes.

        Raises:
          UserError: a model that generates no text, or a text that is too long.
        """
        found = self.outputs(
            texts,
            decoding,
            max_length=max_length,
            continue_text=continue_text,
            seed=seed,
            batch_size=batch_size,
            too_long=too_long,
        )
        return [outputs[0].text for outputs in found]

    @_checked
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
    ) -> list[list[Output]]:
        """Return all outputs for each text, as many as `decoding` returns, with their scores; the arguments are those of `generate`."""
        self._check("generate")
        if continue_text and not self.model.config.can("continue_text"):
            raise UserError(
                f"continue_text: {self.directory} {inference.does(self.model.config)}; only decoders continue a text."
            )

        def compute(rows: Rows, at_once: int, name: Name, start: int) -> list[list[Output]]:
            return inference.infer(
                self,
                [row["inputs"] for row in rows],
                decoding,
                max_length=max_length,
                batch_size=at_once,
                seed=seed + start,
                continue_text=continue_text,
                params=self.parameters,
                name=name,
            )

        return self._asked(_rows(texts), compute, batch_size, too_long)

    @_checked
    def score(
        self, inputs: Sequence[str], targets: Sequence[str], *, batch_size: BatchRows = 32
    ) -> Float[np.ndarray, "N"]:
        """Return the log-probability, in nats, of each target (with its end-of-sequence token) given the inputs at the same place.

        Raises UserError for a model that generates no text, lists of different length, or a text that is too long.
        """
        self._check("generate", "score")
        rows, others = _rows(inputs, "inputs"), _rows(targets, "targets")
        if len(rows) != len(others):
            raise UserError(f"score: {len(rows)} inputs and {len(others)} targets were given; give one for each.")
        pairs = [(one["inputs"], other["inputs"]) for one, other in zip(rows, others, strict=True)]
        found = score_texts(self.model, self.parameters, self.vocabulary, pairs, batch_size=batch_size)
        return np.asarray(found, np.float64)

    @_checked
    def fill_mask(
        self, texts: Sequence[str], *, top: Ids = 5, batch_size: BatchRows = 32, too_long: TooLong = "stop"
    ) -> list[list[list[Candidate]]]:
        """Return for each text, for each `<mask>` in it, the `top` likeliest tokens with their probabilities, best first."""
        self._check("fill_mask")

        def compute(rows: Rows, at_once: int, name: Name, start: int) -> list[list[list[Candidate]]]:
            texts = [row["inputs"] for row in rows]
            return inference.fill(self, texts, top=top, batch_size=at_once, params=self.parameters, name=name)

        return self._asked(_rows(texts), compute, batch_size, too_long)

    @_checked
    def classify(
        self,
        texts: Sequence[str],
        second: Sequence[str] | None = None,
        *,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
    ) -> list[Label]:
        """Return the label of each text, or of each pair of texts, with the probabilities of all labels in the model's order."""
        self._check("classify")
        return self._answers(_rows(texts, second=second), batch_size, too_long)

    @_checked
    def tag(
        self, texts: Sequence[str], *, batch_size: BatchRows = 32, too_long: TooLong = "stop"
    ) -> list[list[tuple[str, Label]]]:
        """Return the words of each text with their labels."""
        self._check("tag")
        return self._answers(_rows(texts), batch_size, too_long)

    @_checked
    def find_span(
        self,
        questions: Sequence[str],
        texts: Sequence[str],
        *,
        max_length: Generated | None = None,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
    ) -> list[Span]:
        """Return for each question the part of the text at the same place that answers it. max_length: tokens that it has at most."""
        self._check("find_span")
        return self._answers(_rows(questions, "questions", second=texts), batch_size, too_long, longest=max_length)

    @_checked
    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: Pooling = "mean",
        normalize: bool = False,
        batch_size: BatchRows = 32,
        too_long: TooLong = "stop",
    ) -> Float[np.ndarray, "N D"]:
        """Return a vector for each text: the mean of the encoder's output over its tokens, or the output at its first (pooling="first").

        normalize: divide each by its Euclidean norm.
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

        return np.asarray(self._asked(_rows(texts), compute, batch_size, too_long), np.float64)

    @_checked
    def evaluate(
        self,
        tasks: str | Sequence[str] | None = None,
        *,
        split: str | None = None,
        examples: CountOrZero | None = None,
        batch_size: BatchRows | None = None,
        shots: CountOrZero | None = None,
        shot_seeds: Few | None = None,
        calibration: Sequence[Calibration] | None = None,
        as_text: bool = False,
        stratified: bool = False,
        fewer_shots: bool = False,
        prompt_length: Length | None = None,
        length: Generated | None = None,
    ) -> list[EvalResult]:
        """Evaluate on tasks, write RUN/eval and the report anew, and return the results, one a task: `result.metrics`, `result.predictions`.

        The arguments are the options of `t2t eval`; None is as in the run's own evaluation. examples: the first ones of each task, 0 for all.
        """
        from t2t.api.evaluation import evaluate_run

        return evaluate_run(
            self,
            params=self.parameters,
            tasks=(tasks,) if isinstance(tasks, str) else tasks,
            split=split,
            examples=examples,
            batch_size=batch_size,
            shots=shots,
            shot_seeds=shot_seeds,
            calibration=calibration,
            as_text=as_text,
            stratified=stratified,
            fewer_shots=fewer_shots,
            prompt_length=prompt_length,
            length=length,
        )

    def export(self, format: str, out: str | os.PathLike[str], *, overwrite: bool = False, **options: Any) -> Path:
        """Write the model for use elsewhere and return the directory.

        Args:
          format: "huggingface" (a directory for transformers' from_pretrained), "safetensors", "stablehlo", or a format of your own.
          out: the directory. overwrite: replace files in it.
          options: those of the format, see `t2t export --help`: dtype, shard_bytes, check; length, platforms.

        Raises:
          UserError: an unknown format or option, a model that the format has no place for, a directory that is not empty.
        """
        from t2t.api.export import export_run

        known = ("length", "platforms", "dtype", "shard_bytes", "check")
        for name in options:
            if name not in known:
                raise UserError(f"Run.export: unknown option {name}.{nearest(name, known)}")
        return export_run(
            self,
            format=format,
            out=os.fspath(out),
            overwrite=overwrite,
            params=self.parameters,
            say=lambda line: print(line, file=sys.stderr),
            **options,
        )

    def train(self, *, dir: str | os.PathLike[str] | None = None, **options: Any) -> Run:
        """Resume the run in its own directory, or train on in another (`dir`), which begins with this run's parameters; see `t2t.train`.

        This object stays at its step; the returned one is at the newest.
        """
        from t2t.api.training import train

        return train(self, dir=dir, **options)

    def _check(self, what: Capability, method: str | None = None) -> None:
        config = self.model.config
        if not config.can(what):
            able = [name for capability, name in _METHODS.items() if config.can(capability)]
            raise UserError(
                f"{method or _METHODS[what]}: {self.directory} {inference.does(config)}. Nearest: {', '.join(able)}."
            )

    def _asked(
        self,
        rows: Rows,
        compute: Callable[[Rows, int, Name, int], Sequence[T]],
        batch_size: int,
        too_long: TooLong,
    ) -> list[T]:
        if too_long not in ("stop", "truncate"):
            raise UserError(
                f"too_long {too_long!r} is no way to handle texts.{nearest(too_long, ('stop', 'truncate'))}"
            )
        lengths = Lengths(too_long, self.vocabulary, 'too_long="truncate" leaves the end of such texts out.')
        found = inference.asked(self, rows, compute, lengths=lengths, batch_size=batch_size)
        answers = [answer for _, answer in found]
        if lengths.message is not None:
            log.warning("%s", lengths.message)
        return answers

    def _answers(self, rows: Rows, batch_size: int, too_long: TooLong, longest: int | None = None) -> list[Any]:
        def compute(some: Rows, at_once: int, name: Name, start: int) -> Sequence[inference.Answer]:
            return inference.answer(self, some, longest=longest, batch_size=at_once, params=self.parameters, name=name)

        return self._asked(rows, compute, batch_size, too_long)


def _rows(texts: Sequence[str], name: str = "texts", *, second: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return an object with "inputs", and "second", for each text. Raises UserError for what is no list of texts."""
    for given, called in ((texts, name), (second or [], "second")):
        if isinstance(given, str | bytes):
            raise UserError(f"{called} is one text. Nearest: a list of texts, [{given!r:.40}].")
        for i, text in enumerate(given):
            if not isinstance(text, str):
                raise UserError(f"{called}[{i}] is {type(text).__name__}, not text.")
    if second is None:
        return [{"inputs": text} for text in texts]
    if len(second) != len(texts):
        raise UserError(f"{len(texts)} {name} and {len(second)} second texts were given; give one for each.")
    return [{"inputs": one, "second": other} for one, other in zip(texts, second, strict=True)]
