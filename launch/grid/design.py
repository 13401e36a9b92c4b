"""Definition of a grid: trainings, some of which start from others, the measures to compare, and published claims."""

from __future__ import annotations

import abc
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from t2t.errors import UserError, nearest
from t2t.limits import Configuration, Count, Ids, Length, Seed, Share
from t2t.train.experiment import Experiment

PRETRAINED, FINE_TUNED = "pretrained", "fine-tuned"


@dataclass(frozen=True, kw_only=True)
class Measure(Configuration):
    """A measure for comparing cells.

    about:  one-line description for the table's caption.
    higher: whether higher values are better.
    chance: the value of random guessing, or None.
    """

    name: str
    about: str
    higher: bool = True
    chance: Share | None = None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training of a grid, repeated with each seed.

    architecture, objective: with `adapted`, these name the cell's row in the table.
    adapted:    adaptation after pretraining, or "". An adapted model has its own row.
    stage:      group of the table's columns: "pretrained" (adaptation included) or "fine-tuned"; or what the cell is trained on, if a row has several trainings.
    experiment: the training's configuration; the grid sets `seed` and `start_from.run`.
    after:      name of the cell whose final parameters this one starts from; None for random parameters.
    measured:   measure -> metrics "TASK/METRIC" of the evaluation; their mean is the value. A measure without an entry stays empty.
    decoded:    numbers of tokens after which the cost of decoding one more token is measured.
    """

    architecture: str
    objective: str
    adapted: str = ""
    stage: str = PRETRAINED
    experiment: Experiment
    after: str | None = None
    measured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    decoded: tuple[Length, ...] = ()

    @property
    def row(self) -> str:
        """Name of the cell's row, for example "decoder, causal / full LM". An adaptation is appended after an arrow."""
        return f"{self.architecture} / {self.objective}" + (f" -> {self.adapted}" if self.adapted else "")

    @property
    def name(self) -> str:
        """Name of the cell's directory, which other cells use in `after`."""
        return ".".join(re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in (self.row, self.stage))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A published ordering, to compare with the results.

    better, than: rows. The claim is that each row of `better` is ahead of each row of `than` in `measure` at `stage`.
    """

    text: str
    source: str
    measure: str
    stage: str
    better: tuple[str, ...]
    than: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TrainedVocabulary(Configuration):
    """A SentencePiece vocabulary, trained on a task's texts before the first cell.

    size: number of ids, including 100 sentinels. examples: number of texts to train on.
    """

    task: str
    size: Ids
    examples: Count = 5_000


@dataclass(frozen=True, kw_only=True)
class GridTask(Configuration, abc.ABC):
    """A task that depends on the grid's options. It is registered before the first cell.

    task: its name.
    """

    task: str

    @abc.abstractmethod
    def register(self) -> None:
        """Register the task, also if it is registered already."""


@dataclass(frozen=True, kw_only=True)
class Grid(Configuration):
    """Cells, each trained with each of `seeds`, and the measures to compare them.

    vocabulary: vocabulary for all cells, trained first; None uses the vocabulary of each task.
    tasks:      tasks that the cells train on, in addition to the registered ones.
    notes:      lines about how the grid was made, which are shown with its cells and its results.
    """

    cells: tuple[Cell, ...]
    measures: tuple[Measure, ...]
    seeds: tuple[Seed, ...] = (0, 1, 2)
    claims: tuple[Claim, ...] = ()
    vocabulary: TrainedVocabulary | None = None
    tasks: tuple[GridTask, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cells or not self.seeds:
            raise UserError(
                f"a grid has {len(self.cells)} cells and {len(self.seeds)} seeds (--seeds): it needs at least one of each."
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds {self.seeds} of a grid (--seeds) must be different whole numbers from 0 on.")
        earlier: dict[str, Cell] = {}
        measures = [measure.name for measure in self.measures]
        for cell in self.cells:
            if cell.name in earlier:
                raise UserError(f"two cells of a grid have the name {cell.name}.")
            if cell.after is not None and cell.after not in earlier:
                raise UserError(
                    f"cell {cell.name} of a grid starts from {cell.after!r}, but no earlier cell has that name.{nearest(cell.after, earlier)}"
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
        """Return the cell with this name."""
        return next(cell for cell in self.cells if cell.name == name)


@dataclass(frozen=True, kw_only=True)
class Design(Configuration, abc.ABC):
    """Options from which a grid is made. Every field is an option of the command."""

    @abc.abstractmethod
    def build(self) -> Grid:
        """Return the grid."""


def _known(what: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise UserError(f"{what} {name!r}, which the grid does not have.{nearest(name, names)}")
