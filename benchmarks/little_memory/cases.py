"""What is compared: two models, each fine-tuned in several ways with the same data, steps and batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
LORA = ("--adapter.rank", "8", "--adapter.alpha", "16", "--adapter.targets", "**/{attention,mlp}/*")
NF4 = ("--trainable.quantize", "nf4", "--trainable.frozen-dtype", "bfloat16")
REFERENCE = ("--trainable.frozen-storage", "reference")
"""Checkpoints then have the trained parameters alone."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way to fine-tune.

    options: those of `t2t train`, besides the suite's.
    peaks:   peak learning rates to try. The best one on the validation split is reported.
    """

    options: tuple[str, ...] = ()
    peaks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A model with its task, and the ways to fine-tune it.

    start:   run of the published weights.
    tasks:   file that registers the task.
    metric:  a metric of the task besides the loss; None if there is none.
    """

    start: str
    task: str
    tasks: Path
    steps: int
    options: tuple[str, ...]
    ways: Mapping[str, Way]
    metric: str | None = None


def suites() -> dict[str, Suite]:
    """Return the suites by name. The labels of the classifier are read from the folder wordnet of the current directory."""
    labels = Path("wordnet/labels.txt")
    classes = labels.read_text(encoding="utf-8").split() if labels.is_file() else ["act", "animal"]
    lora = Way(options=(*LORA, *REFERENCE), peaks=("3e-4", "1e-3"))
    return {
        "instructions": Suite(
            start="runs/smollm2",
            task="translate_help",
            tasks=HERE / "translation_task.py",
            steps=60,
            options=("--batch-size", "4", "--data.inputs-length", "32", "--data.targets-length", "64"),
            ways={
                "full": Way(peaks=("3e-5", "1e-4")),
                "LoRA": lora,
                "QLoRA": Way(options=(*LORA, *NF4, *REFERENCE), peaks=("1e-3",)),
            },
        ),
        "classification": Suite(
            start="runs/minilm",
            task="definition_category",
            tasks=HERE.parent / "minilm" / "wordnet_tasks.py",
            steps=100,
            options=(
                *(
                    "--batch-size",
                    "16",
                    "--data.inputs-length",
                    "48",
                    "--model.head",
                    "label",
                    "--model.pooling",
                    "mean",
                ),
                *("--model.labels", *classes),
            ),
            ways={
                "full": Way(peaks=("1e-4", "3e-4")),
                "LoRA": Way(options=(*LORA, "--adapter.trained", "answer/**"), peaks=("1e-3", "3e-3")),
            },
            metric="accuracy",
        ),
    }


def words(suite: Suite, way: Way, peak: str) -> list[str]:
    """Return the options of `t2t train` and `t2t plan` for a way to fine-tune."""
    schedule = ["--optimizer.schedule.steps", str(suite.steps), "--optimizer.schedule.warmup", str(suite.steps // 10)]
    task = ["--data.task", suite.task, "--evaluation.tasks", suite.task]
    return [
        *task,
        "--steps",
        str(suite.steps),
        *schedule,
        "--optimizer.schedule.peak",
        peak,
        *suite.options,
        *way.options,
    ]
