"""Compare architectures, objectives and ways of use at any model size, as in the published comparisons."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.launch.grid.claims import CLAIMS
from t2t.launch.grid.design import FINE_TUNED, PRETRAINED, Cell, Design, Grid, Measure, TrainedVocabulary
from t2t.limits import (
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
from t2t.models.transformer_config import Dtype, Remat
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
"""Architecture -> objectives that it supports. A model that sees the whole text cannot be trained as a full language model."""
TASKS: dict[Objective, str] = {
    "full LM": "full_lm",
    "prefix LM": "continuation",
    "span corruption": "span_corruption",
    "masked LM": "masked_lm",
    "UL2": "ul2",
}
"""Objective -> suffix of the corpus' task name. There is no EOS between prefix and rest: otherwise a full LM would first see one in evaluation."""
ADAPTED: tuple[tuple[Architecture, Objective, Architecture, Objective], ...] = (
    ("decoder, causal", "full LM", "decoder, non-causal", "span corruption"),
    ("decoder, non-causal", "span corruption", "decoder, causal", "full LM"),
    ("encoder-decoder", "span corruption", "encoder-decoder", "prefix LM"),
)
"""Adaptations: (architecture, objective) of pretraining, then of adaptation. The first two are from Wang et al. (2022, section 5). The third adapts T5
to a language model (Lester et al. 2021)."""


@dataclass(frozen=True, kw_only=True)
class Comparison(Design):
    """Compare architectures and objectives.

    All models use the blocks of T5 v1.1. A decoder has `num_layers` layers. An encoder-decoder has twice as many, but each token passes through half of
    them, so the work is the same. All models process the same number of tokens per step from the same corpus: `batch_size` rows of
    inputs_length + targets_length.

    Args:
        corpus: prefix of the pretraining tasks: CORPUS_full_lm, CORPUS_continuation, CORPUS_span_corruption, CORPUS_ul2, CORPUS_masked_lm.
        multitask: mixture for fine-tuning. The encoder uses the mixture with the suffix _fill_mask.
        score: metrics "TASK/METRIC" of the mixture's tasks. Their mean is the fine-tuned score.
        held_out: multiple-choice tasks outside the mixture, for zero-shot rank classification. Models that are only pretrained use the suffix
            _as_text (no EOS between question and answer), encoders use _fill_mask.
        held_out_texts: tasks of held_out whose answers are texts, for the held-out loss. Leave out answers such as "yes", which need an instruction.
        chance: mean accuracy of random guessing on held_out.
        vocabulary: size of the SentencePiece vocabulary that is trained on the corpus.
        num_layers: layers of a decoder or an encoder, and of each stack of an encoder-decoder.
        d_model: model width.
        num_heads: attention heads.
        d_ff: inner width of the feed-forward networks.
        inputs_length: tokens of a row for the inputs.
        targets_length: tokens of a row for the targets.
        batch_size: rows per batch.
        steps: steps of pretraining.
        adapted_steps: steps of adaptation.
        tuned_steps: steps of multitask fine-tuning.
        peak: the highest learning rate of pretraining and adaptation (AdamW, cosine).
        tuned_peak: the highest learning rate of fine-tuning.
        examples: examples of each task to evaluate on.
        shards: data shards, see `Data`. A mixture of many tasks has this number of readers for each task.
        shuffle_buffer: size of the shuffle buffer, see `Data`. A mixture of many tasks has one buffer for each task.
        seeds: seeds; each cell is trained once with each seed.
        architectures: architectures to train; empty for all.
        objectives: objectives to train with; empty for all.
        dtype: type of the computation.
        remat: activations that the backward pass recomputes.
        attention: implementation of attention.
        microbatches: number of parts in which a batch is computed, to save memory.
        mesh: device mesh.
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
        rows = {cell.row: cell for cell in cells if cell.stage == PRETRAINED}
        for architecture, objective, then, trained in ADAPTED:
            before = rows.get(f"{architecture} / {objective}")
            if before is not None and self._wanted(then, trained):
                cells += self._row(architecture, objective, before=before, adapted=(then, trained))
        named = {cell.row for cell in cells}
        return Grid(
            cells=tuple(cells),
            measures=(
                Measure(
                    name="perplexity",
                    about=f"of the continuations of held-out texts ({self.corpus}_continuation)",
                    higher=False,
                ),
                Measure(
                    name="zero-shot",
                    about=f"rank classification on tasks that are not trained on ({', '.join(self.held_out)})",
                    chance=self.chance,
                ),
                Measure(
                    name="held-out loss",
                    about=f"nats per token of the right answers of {', '.join(self.held_out_texts)}; without encoders, which predict each token independently",
                    higher=False,
                ),
                Measure(name="score", about=f"mean of {', '.join(self.score)}"),
                Measure(
                    name="tasks' loss",
                    about="nats per token of the right answers of the tasks of score; without encoders",
                    higher=False,
                ),
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
        """Return the two cells of a row: pretraining (or adaptation, if `before` is given), and fine-tuning."""
        trained, task = adapted or (architecture, objective)
        end = "_fill_mask" if trained == "encoder" else ""
        asked = tuple(f"{name}{end or '_as_text'}" for name in self.held_out)
        held_out = tuple(f"{name}{end}" for name in self.held_out)
        answered = tuple(f"{name}_as_text" for name in self.held_out_texts)
        text = () if trained == "encoder" else (f"{self.corpus}_continuation",)
        first = Cell(
            architecture=architecture,
            objective=objective,
            adapted="" if adapted is None else task if trained == architecture else f"{trained} / {task}",
            after=None if before is None else before.name,
            measured={
                "zero-shot": _of(asked, "rank_accuracy"),
                **({"perplexity": _of(text, "perplexity"), "held-out loss": _of(answered, "loss")} if text else {}),
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
            stage=FINE_TUNED,
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
        """Return the model of an architecture."""
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
    """Models of T5-base's size on C4, 33 billion tokens each (padding included), three seeds: for accelerators."""
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
