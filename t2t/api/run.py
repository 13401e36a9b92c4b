"""`t2t.Run`: a trained run for inference, evaluation, export and further training."""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from jaxtyping import Float

from t2t.api import inference
from t2t.api.arguments import checked, rows_of
from t2t.api.lengths import Lengths, Name, Rows
from t2t.api.mixing import Mixture, mixture_of, with_adapters
from t2t.decode import Candidate, Decoding, Label, LabelSet, Output, Pooling, Span, score_texts
from t2t.errors import UserError, nearest
from t2t.limits import CountOrZero, Few, Generated, Ids, Length, Seed
from t2t.limits import Rows as BatchRows
from t2t.nn.capabilities import Capability
from t2t.train.evaluation import EvalResult
from t2t.train.few_shot import Calibration
from t2t.train.run import SavedRun
from t2t.types import Params

T = TypeVar("T")
TooLong = Literal["stop", "truncate"]
"""How to handle a text that exceeds the model's positions or the memory: raise an error, or truncate the text."""

_METHODS: tuple[Capability, ...] = ("generate", "fill_mask", "classify", "regress", "tag", "find_span", "embed")
"""Capabilities of models that have a method of the same name."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run(SavedRun):
    """A run at one of its checkpoints. Parameters are read at the first use and kept.

    A method that the model does not support (`generate` of an encoder) raises UserError. The error names the supported methods.
    """

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}, step={self.step})"

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

    @checked
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
        """Evaluate on tasks and return one result for each task: `result.metrics`, `result.predictions`. Updates RUN/eval and the report.

        The arguments are the options of `t2t eval`. None keeps the value of the run's own evaluation.
        examples: number of examples of each task, from the start; 0 for all.
        """
        import jax

        from t2t.api.evaluation import evaluate_run
        from t2t.api.report import write_report

        results = evaluate_run(
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
        if jax.process_index() == 0:
            write_report(self.directory)
        return results

    def export(self, format: str, out: str | os.PathLike[str], *, overwrite: bool = False, **options: Any) -> Path:
        """Export the model and return the directory.

        Args:
          format: "huggingface" (a directory for transformers' from_pretrained), "sentence-transformers", "safetensors", "stablehlo", "gguf", or a registered format.
          out: the output directory.
          overwrite: replace existing files in the directory.
          options: options of the format, see `t2t export --help`: dtype, shard_bytes, check; length, platforms; merge_adapter; quantize.

        Raises:
          UserError: the format or an option is unknown, the format does not support the model, or the directory is not empty.
        """
        from t2t.api.export import export_run

        known = ("length", "platforms", "dtype", "shard_bytes", "check", "merge_adapter", "quantize")
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

    def merge(self, dir: str | os.PathLike[str]) -> Run:
        """Merge the run's adapter into the kernels, and return a new run in `dir` of the model alone, which computes the same.

        Raises UserError if this run has no adapter, or if `dir` exists.
        """
        from t2t.api.merging import merge_run

        return type(self).load(merge_run(self, os.fspath(dir), params=self.parameters))

    def calibrate(self, dir: str | os.PathLike[str], *, task: str, **options: Any) -> Run:
        """Quantize the kernels, calibrated on a task, and return a new run in `dir`. options: those of `t2t quantize`, such as format and rows.

        Raises UserError if an option is unknown, if the kernels or the format do not allow it, or if `dir` exists.
        """
        from t2t.api.quantizing import OPTIONS, quantize_run

        for name in options:
            if name not in OPTIONS:
                raise UserError(f"Run.calibrate: unknown option {name}.{nearest(name, OPTIONS)}")
        return type(self).load(quantize_run(self, os.fspath(dir), task=task, params=self.parameters, **options))

    def train(self, *, dir: str | os.PathLike[str] | None = None, **options: Any) -> Run:
        """Resume the run in its own directory, or start a new run in `dir` from this run's parameters; see `t2t.train`.

        This object stays at its step. The returned run is at its newest checkpoint.
        """
        from t2t.api.training import train

        return train(self, dir=dir, **options)

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
