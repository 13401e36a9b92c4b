"""The comparison behind the field's papers: architectures by objectives by ways of use, at any size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.launch.grid.claims import CLAIMS
from t2t.launch.grid.design import Cell, Grid, Measure, TrainedVocabulary
from t2t.limits import (
    Configuration,
    Count,
    CountOrZero,
    Depth,
    Ids,
    Length,
    Parts,
    Peak,
    Rows,
    Seed,
    Share,
    Width,
)
from t2t.models import DecoderConfig, EncoderConfig, EncoderDecoderConfig, StackConfig, TransformerConfig
from t2t.models.config import Dtype, Remat
from t2t.nn.attention import Backend
from t2t.objectives import CrossEntropy
from t2t.optim import AdamW, Cosine
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment, StartFrom

Architecture = Literal["decoder, causal", "decoder, non-causal", "encoder-decoder", "encoder"]
Objective = Literal["full LM", "prefix LM", "span corruption", "masked LM", "UL2"]

OBJECTIVES: dict[Architecture, tuple[Objective, ...]] = {
    "decoder, causal": ("full LM", "prefix LM", "span corruption", "UL2"),
    "decoder, non-causal": ("prefix LM", "span corruption", "UL2"),
    "encoder-decoder": ("prefix LM", "span corruption", "UL2"),
    "encoder": ("masked LM",),
}
"""The objectives that an architecture can be trained with: what sees all of a text cannot be a full language model."""
TASKS: dict[Objective, str] = {
    "full LM": "full_lm",
    "prefix LM": "continuation",
    "span corruption": "span_corruption",
    "masked LM": "masked_lm",
    "UL2": "ul2",
}
"""Objective -> the end of the name of a corpus' task. No EOS stands between prefix and rest, or a full LM would meet one for the first time in evaluation."""
ADAPTED: tuple[tuple[Architecture, Objective, Architecture, Objective], ...] = (
    ("decoder, causal", "full LM", "decoder, non-causal", "span corruption"),
    ("decoder, non-causal", "span corruption", "decoder, causal", "full LM"),
    ("encoder-decoder", "span corruption", "encoder-decoder", "prefix LM"),
)
"""Pretrained so, then trained on so: the two adaptations of Wang et al. (2022, section 5) and T5's to a language model (Lester et al. 2021)."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Configuration):
    """Which architecture with which objective is best for what.

    Every model is made of the same blocks, T5 v1.1's; a decoder has `num_layers` of them, an encoder-decoder twice as many, half of which see a
    token: the same work. All see as many places a step, `batch_size` rows of inputs_length + targets_length, of the same corpus.

    Args:
        corpus: pretraining's tasks are CORPUS_full_lm, CORPUS_continuation, CORPUS_span_corruption, CORPUS_ul2, CORPUS_masked_lm.
        multitask: mixture for fine-tuning; with _fill_mask behind it, the encoder's.
        score: "TASK/METRIC" of its tasks, the mean of which is the fine-tuned score.
        held_out: tasks with choices that are no part of it, for zero-shot rank classification; with _as_text behind them, without EOS between
            question and answer, for models that were only pretrained, and with _fill_mask, for encoders.
        held_out_texts: those of them whose answers are texts, not words such as "yes" that only an instruction asks for: the held-out loss is theirs.
        chance: the mean of what guessing gives on `held_out`.
        vocabulary: ids of a SentencePiece vocabulary that is trained on the corpus.
        num_layers: of a decoder or an encoder; of each stack of an encoder-decoder.
        d_model: width.
        num_heads: attention heads.
        d_ff: inner width of the feed-forward networks.
        inputs_length: tokens a row has for inputs.
        targets_length: tokens a row has for targets.
        batch_size: rows of a batch.
        steps: of pretraining.
        adapted_steps: of adaptation.
        tuned_steps: of multitask fine-tuning.
        peak: the highest learning rate of pretraining and adaptation (AdamW, cosine).
        tuned_peak: the highest learning rate of fine-tuning.
        examples: of each task to evaluate on.
        shards: of the data, see `Data`; a mixture of many tasks has so many readers for each of them.
        shuffle_buffer: of the data, see `Data`; a mixture of many tasks has a buffer for each of them.
        seeds: of each cell, which is trained with every one.
        architectures: those to train; none for all.
        objectives: those to train with; none for all.
        dtype: of computation.
        remat: what the backward pass computes again.
        attention: how attention is computed.
        microbatches: parts a batch is computed in, to save memory.
        mesh: how devices are laid out.
    """

    corpus: str
    multitask: str
    score: tuple[str, ...]
    held_out: tuple[str, ...]
    held_out_texts: tuple[str, ...] = ()
    chance: Share | None = None
    vocabulary: Ids = 1024
    num_layers: Depth = 2
    d_model: Width = 64
    num_heads: Width = 4
    d_ff: Width = 128
    inputs_length: Length = 160
    targets_length: Length = 64
    batch_size: Rows = 8
    steps: Count = 1000
    adapted_steps: Count = 250
    tuned_steps: Count = 600
    peak: Peak = 3e-3
    tuned_peak: Peak = 2e-3
    examples: Count = 100
    shards: Parts = 1
    shuffle_buffer: CountOrZero = 200
    seeds: tuple[Seed, ...] = (0, 1)
    architectures: tuple[Architecture, ...] = ()
    objectives: tuple[Objective, ...] = ()
    dtype: Dtype = "float32"
    remat: Remat = "none"
    attention: Backend = "einsum"
    microbatches: Parts = 1
    mesh: MeshConfig = MeshConfig()

    def build(self) -> Grid:
        """Return the grid."""
        cells: list[Cell] = []
        for architecture, objectives in OBJECTIVES.items():
            for objective in objectives:
                if self._wanted(architecture, objective):
                    cells += self._row(architecture, objective)
        rows = {cell.row: cell for cell in cells if cell.stage == "pretrained"}
        for architecture, objective, then, trained in ADAPTED:
            before = rows.get(f"{architecture} / {objective}")
            if before is not None and self._wanted(then, trained):
                cells += self._row(architecture, objective, before=before, adapted=(then, trained))
        named = {cell.row for cell in cells}
        return Grid(
            cells=tuple(cells),
            measures=(
                Measure(
                    name="perplexity", about=f"of the rest of held-out texts ({self.corpus}_continuation)", higher=False
                ),
                Measure(
                    name="zero-shot",
                    about=f"rank classification on tasks never trained on ({', '.join(self.held_out)})",
                    chance=self.chance,
                ),
                Measure(
                    name="held-out loss",
                    about=f"nats a token of the right answers of {', '.join(self.held_out_texts)}; encoders', which do not see each other, are left out",
                    higher=False,
                ),
                Measure(name="score", about=f"mean of {', '.join(self.score)}"),
                Measure(name="tasks' loss", about="nats a token of the right answers of these, likewise", higher=False),
            ),
            seeds=self.seeds,
            vocabulary=TrainedVocabulary(task=f"{self.corpus}_continuation", size=self.vocabulary),
            claims=tuple(claim for claim in CLAIMS if named.issuperset((*claim.better, *claim.than))),
        )

    def _wanted(self, architecture: Architecture, objective: Objective) -> bool:
        return architecture in (self.architectures or OBJECTIVES) and objective in (self.objectives or TASKS)

    def _row(
        self,
        architecture: Architecture,
        objective: Objective,
        *,
        before: Cell | None = None,
        adapted: tuple[Architecture, Objective] | None = None,
    ) -> list[Cell]:
        """Return a row's two cells: pretraining or, behind `before`, adaptation; and fine-tuning."""
        trained, task = adapted or (architecture, objective)
        end = "_fill_mask" if trained == "encoder" else ""
        asked = tuple(f"{name}{end or '_as_text'}" for name in self.held_out)
        held_out = tuple(f"{name}{end}" for name in self.held_out)
        told = tuple(f"{name}_as_text" for name in self.held_out_texts)
        text = () if trained == "encoder" else (f"{self.corpus}_continuation",)
        first = Cell(
            architecture=architecture,
            objective=objective,
            adapted="" if adapted is None else task if trained == architecture else f"{trained} / {task}",
            after=None if before is None else before.name,
            measured={
                "zero-shot": _of(asked, "rank_accuracy"),
                **({"perplexity": _of(text, "perplexity"), "held-out loss": _of(told, "loss")} if text else {}),
            },
            experiment=self._experiment(
                trained,
                f"{self.corpus}_{TASKS[task]}",
                (*text, *asked),
                steps=self.steps if adapted is None else self.adapted_steps,
                peak=self.peak,
            ),
        )
        scored = tuple(f"{task}{end}/{metric}" for task, _, metric in (key.rpartition("/") for key in self.score))
        trained_on = tuple(dict.fromkeys(key.rpartition("/")[0] for key in scored))
        tuned = replace(
            first,
            stage="fine-tuned",
            after=first.name,
            measured={
                "zero-shot": _of(held_out, "rank_accuracy"),
                "score": scored,
                **(
                    {"held-out loss": _of(self.held_out_texts, "loss"), "tasks' loss": _of(trained_on, "loss")}
                    if text
                    else {}
                ),
            },
            experiment=self._experiment(
                trained,
                f"{self.multitask}{end}",
                (*trained_on, *held_out),
                steps=self.tuned_steps,
                peak=self.tuned_peak,
            ),
        )
        return [first, tuned]

    def _experiment(
        self, architecture: Architecture, task: str, evaluated: tuple[str, ...], *, steps: int, peak: float
    ) -> Experiment:
        encoder = architecture == "encoder"
        return Experiment(
            model=self.model(architecture),
            data=Data(
                task=task,
                inputs_length=self.inputs_length + (self.targets_length if encoder else 0),
                targets_length=self.inputs_length + self.targets_length if encoder else self.targets_length,
                batch_size=self.batch_size,
                shards=self.shards,
                shuffle_buffer=self.shuffle_buffer,
            ),
            optimizer=AdamW(
                schedule=Cosine(peak=peak, warmup=max(steps // 10, 1), steps=steps, final=0.1),
                b2=0.98,
                weight_decay=0.01,
            ),
            steps=steps,
            log_every=max(steps // 20, 1),
            objective=CrossEntropy(z_loss=1e-4),
            mesh=self.mesh,
            microbatches=self.microbatches,
            start_from=StartFrom(),
            checkpoint=CheckpointConfig(every=max(steps // 2, 1), keep_last=1, keep_best=0),
            evaluation=Evaluation(tasks=evaluated, every=0, examples=self.examples, samples=0),
        )

    def model(self, architecture: Architecture) -> TransformerConfig:
        """Return an architecture's model."""
        stack = StackConfig(
            num_layers=self.num_layers,
            d_model=self.d_model,
            num_heads=self.num_heads,
            d_ff=self.d_ff,
            gated=True,
            norm="rms",
            positions="relative",
            scaled_attention=False,
            init="fan_in",
        )
        common: dict[str, Any] = {
            "vocab_size": -(-self.vocabulary // 128) * 128,
            "dtype": self.dtype,
            "remat": self.remat,
            "attention": self.attention,
            "tied": False,
            "embedding_std": 1.0,
        }
        if architecture == "encoder":
            return EncoderConfig(encoder=stack, **common)
        if architecture == "encoder-decoder":
            return EncoderDecoderConfig(encoder=stack, decoder=stack, **common)
        return DecoderConfig(decoder=stack, mask="causal" if architecture == "decoder, causal" else "prefix", **common)


def _of(tasks: tuple[str, ...], metric: str) -> tuple[str, ...]:
    return tuple(f"{name}/{metric}" for name in tasks)


SCORE = (
    *(f"prompted_{name}/exact_match" for name in ("reverse_words_reversed", "copy_words_repeat", "sort_words_a_to_z")),
    "prompted_sort_numbers_ascending/exact_match",
    *(f"prompted_{name}/rank_accuracy" for name in ("parity_which", "docs_match_summary_of")),
)
HELD_OUT = (
    *(f"docs_which_summary_{template}" for template in ("plain", "tldr")),
    "docs_describes_belongs",
    "prompted_word_order_sorted",
)
CHANCE = (2 * 0.25 + 2 * 0.5) / 4


def small() -> Comparison:
    """Fourteen rows, two seeds, on the documentation of installed packages: under an hour on two cores."""
    return Comparison(
        corpus="docs",
        multitask="multitask",
        score=SCORE,
        held_out=HELD_OUT,
        held_out_texts=HELD_OUT[:2],
        chance=CHANCE,
    )


def base() -> Comparison:
    """Models of T5-base's size on C4, 33 billion places each, three seeds: for accelerators."""
    return Comparison(
        corpus="c4",
        multitask="multitask",
        score=SCORE,
        held_out=HELD_OUT,
        held_out_texts=HELD_OUT[:2],
        chance=CHANCE,
        vocabulary=32_000,
        num_layers=12,
        d_model=768,
        num_heads=12,
        d_ff=2048,
        inputs_length=512,
        targets_length=128,
        batch_size=256,
        steps=200_000,
        adapted_steps=20_000,
        tuned_steps=20_000,
        peak=1e-3,
        tuned_peak=3e-4,
        examples=1000,
        shards=64,
        shuffle_buffer=1000,
        seeds=(0, 1, 2),
        dtype="bfloat16",
    )


GRIDS = {"small": small, "base": base}
