"""`t2t.Run`: a trained run for inference, evaluation, export and further training."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2t.api.answering import AnsweringRun
from t2t.api.arguments import checked
from t2t.decode.config import Samples, Temperature, TopP
from t2t.errors import UserError, nearest
from t2t.limits import CountOrZero, Few, Generated, Length
from t2t.limits import Rows as BatchRows
from t2t.train.evaluation import EvalResult
from t2t.train.few_shot import Calibration


@dataclass(frozen=True)
class Run(AnsweringRun):
    """A run at one of its checkpoints. Parameters are read at the first use and kept.

    A method that the model does not support (`generate` of an encoder) raises UserError. The error names the supported methods.
    """

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r}, step={self.step})"

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
        samples: Samples | None = None,
        temperature: Temperature | None = None,
        top_p: TopP | None = None,
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
            samples=samples,
            temperature=temperature,
            top_p=top_p,
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
