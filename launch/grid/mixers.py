"""Compare mixers, experts and ternary weights in language models with as many parameters, or as many FLOPs for each token."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from t2t.api.quiet import register_tasks
from t2t.checkpoint import CheckpointConfig
from t2t.data import Data
from t2t.errors import UserError
from t2t.launch.grid.design import Cell, Design, Grid, GridTask, Measure
from t2t.launch.grid.matching import Equal, Matched, match, measured
from t2t.launch.grid.mixer_claims import CLAIMS
from t2t.launch.grid.mixer_models import REFERENCE, ROWS, Choices, Row, Sizes, decoder
from t2t.launch.grid.texts import CharacterText, RecallText
from t2t.limits import Count, CountOrZero, Length, Peak, Rows, Seed, Width
from t2t.optim import AdamW, Cosine
from t2t.paths import LocalPath
from t2t.sharding import MeshConfig
from t2t.train.evaluation import Evaluation
from t2t.train.experiment import Experiment
from t2t.vocabularies import Bytes, Vocabulary

DataName = Literal["characters", "documentation", "recall"]
DATA: tuple[DataName, ...] = get_args(DataName)
EQUAL: tuple[Equal, ...] = get_args(Equal)
Found: TypeAlias = "dict[tuple[Row, Equal], Matched]"
"""The widths of the feed-forward layers of rows."""


@dataclass(frozen=True, kw_only=True)
class Part(Sizes):
    """Sizes of the models for one kind of data, and how they are trained.

    Args:
        num_layers: number of layers.
        d_model: width of the residual stream.
        num_heads: attention heads. The heads of the recurrent mixers have widths in proportion to those of attention.
        d_ff: inner width of the reference's feed-forward layers. That of the other rows is found.
        length: tokens of a row.
        batch_size: rows of a batch.
        steps: training steps.
        peak: the highest learning rate. It rises for a twentieth of the steps and falls to a tenth with a cosine.
        examples: examples to evaluate on; 0 for all.
    """

    batch_size: Rows = 12
    steps: Count = 2_000
    peak: Peak = 1e-3
    examples: CountOrZero = 0


@dataclass(frozen=True, kw_only=True)
class Mixers(Design):
    """Compare mixers.

    Each row is trained on each kind of data. The reference has attention; the other rows differ from it in the mixer, the feed-forward layer or the type of the
    weights. The width of their feed-forward layers is chosen so that they have as many parameters, or FLOPs for each token, as the reference.

    Args:
        text: the file for "characters": one text in UTF-8, compressed or not.
        data: kinds of data: "characters" of `text`, "documentation" of installed packages (bytes), and "recall" (multi-query associative recall). Empty for all.
        rows: rows to train; empty for all. The reference is always trained.
        equal: what is equal to the reference: "parameters", "FLOPs"; empty for one row with each.
        multiple: the widths that are found are multiples of this.
        pairs: pairs of a key and a value in a text of "recall".
        decoded: numbers of tokens after which the size of the state and the time for one more token are measured.
        models: options of the rows.
        characters: sizes and training on "characters".
        documentation: sizes and training on "documentation".
        recall: sizes and training on "recall".
        seeds: seeds; each cell is trained once with each seed.
        mesh: device mesh.
    """

    text: LocalPath | None = None
    data: tuple[DataName, ...] = ()
    rows: tuple[Row, ...] = ()
    equal: tuple[Equal, ...] = ()
    multiple: Width = 8
    pairs: Count = 16
    decoded: tuple[Length, ...] = (128, 1_024)
    models: Choices = Choices()
    characters: Part = Part()
    documentation: Part = Part(length=256, batch_size=8, steps=1_000, examples=200)
    recall: Part = Part(
        num_layers=2, d_model=64, num_heads=2, d_ff=256, length=96, batch_size=32, peak=3e-3, examples=500
    )
    seeds: tuple[Seed, ...] = (0,)
    mesh: MeshConfig = MeshConfig()

    def build(self) -> Grid:
        """Return the grid. Raises UserError if `text` is missing, or if a row cannot be as small as the reference."""
        kinds = [_Kind.of(name, self) for name in DATA if name in (self.data or DATA)]
        found = {kind.name: self._found(kind) for kind in kinds}
        cells = [cell for kind in kinds for cell in self._cells(kind, found)]
        rows, stages = {cell.row for cell in cells}, {cell.stage for cell in cells}
        return Grid(
            cells=tuple(cells),
            measures=(
                Measure(name="loss", about="nats per token of held-out text", higher=False),
                Measure(
                    name="recall", about=f"share of the values found, of {self.pairs} pairs", chance=1 / self.pairs
                ),
            ),
            seeds=self.seeds,
            claims=tuple(
                claim for claim in CLAIMS if claim.stage in stages and rows.issuperset((*claim.better, *claim.than))
            ),
            tasks=tuple(kind.task for kind in kinds if kind.task is not None),
            notes=tuple(note for kind in kinds for note in _notes(kind.name, found[kind.name])),
        )

    def _found(self, kind: _Kind) -> Found:
        """Return the widths of the rows' feed-forward layers."""
        part, vocab_size = kind.part, kind.vocabulary.size
        found: Found = {}
        for equal in self.equal or EQUAL:
            reference = decoder(REFERENCE, part, self.models, d_ff=part.d_ff, vocab_size=vocab_size)
            target = measured(reference, equal, part.length)
            for row in self.rows or ROWS:
                if row == REFERENCE:
                    continue

                def size(d_ff: int, row: Row = row, equal: Equal = equal) -> float:
                    model = decoder(row, part, self.models, d_ff=d_ff, vocab_size=vocab_size)
                    return measured(model, equal, part.length)

                what = f"{row}, equal {equal}, {kind.name}"
                found[row, equal] = match(size, target, multiple=self.multiple, what=what)
        return found

    def _cells(self, kind: _Kind, found: Mapping[DataName, Found]) -> list[Cell]:
        sizes = {(REFERENCE, "the reference"): kind.part.d_ff}
        for (row, equal), matched in found[kind.name].items():
            same = [
                other
                for other in self.equal or EQUAL
                if all(one[row, other].size == one[row, equal].size for one in found.values())
            ]  # one training serves for both
            sizes[row, f"equal {' and '.join(same)}"] = matched.size
        return [
            Cell(
                architecture=row,
                objective=objective,
                stage=kind.name,
                experiment=self._experiment(kind, row, d_ff),
                measured={kind.measure: (f"{kind.data.task}/{kind.metric}",)},
                decoded=self.decoded if kind.name == "characters" else (),
            )
            for (row, objective), d_ff in sizes.items()
        ]

    def _experiment(self, kind: _Kind, row: Row, d_ff: int) -> Experiment:
        part = kind.part
        return Experiment(
            model=decoder(row, part, self.models, d_ff=d_ff, vocab_size=kind.vocabulary.size),
            data=kind.data,
            optimizer=AdamW(
                schedule=Cosine(peak=part.peak, warmup=part.steps // 20, steps=part.steps, final=0.1),
                b2=0.99,
                weight_decay=0.1,
            ),
            steps=part.steps,
            log_every=max(part.steps // 20, 1),
            mesh=self.mesh,
            checkpoint=CheckpointConfig(every=max(part.steps // 2, 1), keep_last=1, keep_best=0),
            evaluation=Evaluation(tasks=(kind.data.task,), every=0, examples=part.examples, samples=0),
        )


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One kind of data. measure, metric: the measure of the grid, and the metric of the evaluation that is its value. task: None if it is always registered."""

    name: DataName
    part: Part
    data: Data
    vocabulary: Vocabulary
    task: GridTask | None = None
    measure: str = "loss"
    metric: str = "loss"

    @classmethod
    def of(cls, name: DataName, design: Mixers) -> _Kind:
        """Return a kind of data with the options of a design."""
        part: Part = getattr(design, name)
        if name == "characters":
            return cls._characters(part, design.text)
        if name == "documentation":
            half, vocabulary = part.length // 2, Bytes()
            data = _data("docs_full_lm", part, inputs_length=half, targets_length=part.length - half)
            return cls(name=name, part=part, data=data, vocabulary=vocabulary)
        register_tasks()
        from t2t.tasks.recall import VOCABULARY, Recall

        inputs, targets = Recall(design.pairs, part.length).lengths
        task = RecallText(task=f"recall_{design.pairs}_{part.length}", pairs=design.pairs, length=part.length)
        data = _data(task.task, part, inputs_length=inputs, targets_length=targets)
        return cls(
            name=name,
            part=part,
            data=data,
            vocabulary=VOCABULARY,
            task=task,
            measure="recall",
            metric="token_accuracy",
        )

    @classmethod
    def _characters(cls, part: Part, file: str | None) -> _Kind:
        if file is None:
            raise UserError(
                "t2t grid mixers: --text is missing: the file whose characters the models learn, for example tinyshakespeare.txt."
                " Nearest: --data documentation recall."
            )
        register_tasks()
        from t2t.tasks.sources.windows import text_of
        from t2t.vocabularies import Characters

        text = text_of(file)
        # The name tells texts apart, so that a grid is not resumed on another one.
        name = f"characters_{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
        return cls(
            name="characters",
            part=part,
            data=_data(name, part, inputs_length=1, targets_length=part.length - 1),
            vocabulary=Characters.of(text),
            task=CharacterText(task=name, file=str(Path(file).resolve()), length=part.length),
        )


def _notes(name: DataName, found: Found) -> list[str]:
    return [
        f"{name}: {row} with equal {equal} has feed-forward layers of width {matched.size:,}; its {equal} differ by {matched.difference:+.2%}."
        for (row, equal), matched in found.items()
    ]


def _data(task: str, part: Part, *, inputs_length: int, targets_length: int) -> Data:
    return Data(
        task=task,
        inputs_length=inputs_length,
        targets_length=targets_length,
        batch_size=part.batch_size,
        shards=1,
        shuffle_buffer=500,
    )


def mixers() -> Mixers:
    """Attention, Mamba-2, RWKV-7, RetNet, gated DeltaNet, a hybrid, experts and ternary weights in small decoders, on characters of a text (--text), on the documentation of installed packages and on associative recall."""
    return Mixers()
