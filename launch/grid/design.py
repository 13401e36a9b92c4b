"""What a grid is: trainings, some of which go on from others, what is measured of each, and what the literature expects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Count, Ids, Seed, Share
from t2t.train.experiment import Experiment

Stage = Literal["pretrained", "fine-tuned"]
STAGES: tuple[Stage, ...] = ("pretrained", "fine-tuned")


@dataclass(frozen=True, kw_only=True)
class Measure(Configuration):
    """Something that cells are compared by.

    about:  a line on what it is, for the table's caption.
    higher: whether more of it is better.
    chance: what guessing gives, or None.
    """

    name: str
    about: str
    higher: bool = True
    chance: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of a grid, done once with each seed.

    architecture, objective: name its row of the table, with `adapted`.
    adapted:    what was trained on after pretraining, "" for nothing: the row is one of its own.
    stage:      pretraining (adaptation included), or fine-tuning after it.
    experiment: what is trained; the grid fills in `seed` and `start_from.run`.
    after:      name of the cell whose parameters it begins with, None for random ones.
    measured:   measure -> keys "TASK/METRIC" of its evaluation, the mean of which is its value. A measure that is left out stays empty.
    """

    architecture: str
    objective: str
    adapted: str = ""
    stage: Stage = "pretrained"
    experiment: Experiment
    after: str | None = None
    measured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def row(self) -> str:
        """Name of its row: "decoder, causal / full LM", with what it was adapted to behind an arrow."""
        return f"{self.architecture} / {self.objective}" + (f" -> {self.adapted}" if self.adapted else "")

    @property
    def name(self) -> str:
        """Name of its folder, and what `after` of other cells says."""
        return ".".join(re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in (self.row, self.stage))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An ordering that was published, to be compared with what comes out.

    better, than: rows; each of `better` is to be ahead of each of `than` in `measure` at `stage`.
    """

    text: str
    source: str
    measure: str
    stage: Stage
    better: tuple[str, ...]
    than: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainedVocabulary(Configuration):
    """A SentencePiece vocabulary, trained on a task's texts before the first cell.

    size: ids in all, 100 sentinels included. examples: texts it is trained on.
    """

    task: str
    size: Ids
    examples: Count = 5_000


@dataclass(frozen=True, kw_only=True)
class Grid(Configuration):
    """Cells, each to be trained with each of `seeds`, and how they are compared.

    vocabulary: of all cells, trained first; None leaves each its task's own.
    """

    cells: tuple[Cell, ...]
    measures: tuple[Measure, ...]
    seeds: tuple[Seed, ...] = (0, 1, 2)
    claims: tuple[Claim, ...] = ()
    vocabulary: TrainedVocabulary | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cells or not self.seeds:
            raise UserError(
                f"a grid of {len(self.cells)} cells and {len(self.seeds)} seeds: give one of each at least."
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds {self.seeds} of a grid (--seeds): give different whole numbers from 0 on.")
        earlier: dict[str, Cell] = {}
        measures = [measure.name for measure in self.measures]
        for cell in self.cells:
            if cell.name in earlier:
                raise UserError(f"two cells of a grid are called {cell.name}.")
            if cell.after is not None and cell.after not in earlier:
                raise UserError(
                    f"cell {cell.name} of a grid goes on from {cell.after!r}, which no cell before it is called.{nearest(cell.after, earlier)}"
                )
            for name in cell.measured:
                _known(f"cell {cell.name} measures", name, measures)
            earlier[cell.name] = cell
        rows = list(dict.fromkeys(cell.row for cell in self.cells))
        for claim in self.claims:
            _known(f"claim {claim.text!r} is about measure", claim.measure, measures)
            for row in (*claim.better, *claim.than):
                _known(f"claim {claim.text!r} is about row", row, rows)

    def cell(self, name: str) -> Cell:
        """Return the cell of that name."""
        return next(cell for cell in self.cells if cell.name == name)


def _known(what: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UserError(f"{what} {name!r}, which the grid does not have.{nearest(name, names)}")
