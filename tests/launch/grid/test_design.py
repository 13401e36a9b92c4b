"""What a grid refuses, and what the comparison is made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from t2t.api.recipes import quickstart_t5
from t2t.errors import UserError
from t2t.launch.grid import Cell, Claim, Comparison, Grid, Measure
from t2t.launch.grid.claims import CLAIMS
from t2t.launch.grid.comparison import OBJECTIVES, base, small
from t2t.launch.main import run
from t2t.models import count

CELL = Cell(architecture="A", objective="x", experiment=quickstart_t5(), measured={"score": ("reverse_words/loss",)})
SCORE = Measure(name="score", about="")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"cells": ()}, "a grid has 0 cells and 3 seeds"),
        ({"seeds": (1, 1)}, "seeds \\(1, 1\\) of a grid \\(--seeds\\) must be different whole numbers"),
        ({"seeds": (-1,)}, "seeds \\(-1,\\)"),
        ({"cells": (CELL, CELL)}, "two cells of a grid have the name a_x.pretrained"),
        (
            {"cells": (CELL, replace(CELL, stage="fine-tuned", after="a_x.pretraind"))},
            "starts from 'a_x.pretraind', but no earlier cell has that name. Nearest: a_x.pretrained",
        ),
        ({"cells": (replace(CELL, after="a_x.pretrained"),)}, "starts from 'a_x.pretrained', but no earlier cell"),
        (
            {"cells": (replace(CELL, measured={"scor": ()}),)},
            "measures 'scor', which the grid does not have. Nearest: score",
        ),
        (
            {
                "claims": (
                    Claim(
                        text="t", source="s", measure="score", stage="pretrained", better=("A / y",), than=("A / x",)
                    ),
                )
            },
            "claim 't' is about row 'A / y', which the grid does not have. Nearest: A / x",
        ),
    ],
)
def test_mistakes_in_a_grid_are_named(parts, message):
    with pytest.raises(UserError, match=message):
        Grid(**{"cells": (CELL,), "measures": (SCORE,), **parts})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "t2t grid: GRID is missing: small, base, mixers"),
        ("smal --dir d", "unknown grid 'smal'. Nearest: small"),
        ("small", "t2t grid small: --dir DIR is missing"),
        ("small --dir d --workers 0", "--workers 0: expected 1 to"),
        ("small --dir d --step 3", "unknown option --step. Nearest: --steps"),
        ("small --dir d --seeds 1 1", "seeds (1, 1) of a grid (--seeds)"),
        ("mixers --dir d", "t2t grid mixers: --text is missing"),
    ],
)
def test_mistakes_are_told_in_a_line(words, message, capsys):
    assert run(["grid", *words.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_comparison_has_every_pair_that_can_be_and_every_stage():
    cells = small().build().cells
    rows = {(cell.architecture, cell.objective) for cell in cells if not cell.adapted}
    assert rows == {(architecture, objective) for architecture, found in OBJECTIVES.items() for objective in found}
    for cell in cells:
        assert sum(other.row == cell.row for other in cells) == 2
        assert (cell.after is None) == (cell.stage == "pretrained" and not cell.adapted)
    adapted = {cell.row for cell in cells if cell.adapted}
    assert adapted == {
        "decoder, causal / full LM -> decoder, non-causal / span corruption",
        "decoder, non-causal / span corruption -> decoder, causal / full LM",
        "encoder-decoder / span corruption -> prefix LM",
    }


def test_all_cells_of_a_stage_see_as_many_places():
    by_stage: dict[tuple[str, bool], set[int]] = {}
    for cell in small().build().cells:
        data = cell.experiment.data
        row = data.inputs_length + (0 if cell.experiment.model.kind == "encoder" else data.targets_length)
        places = cell.experiment.steps * data.batch_size * row
        by_stage.setdefault((cell.stage, bool(cell.adapted and cell.stage == "pretrained")), set()).add(places)
    assert all(len(found) == 1 for found in by_stage.values())


def test_an_encoder_decoder_has_the_decoders_blocks_twice():
    made = small()
    stack = made.model("decoder, causal").stacks[0]
    assert made.model("encoder-decoder").stacks == (stack, stack)
    assert made.model("encoder").stacks == (stack,)
    assert count(made.model("decoder, causal")) == count(made.model("decoder, non-causal"))


def test_every_published_ordering_is_about_rows_of_the_grid():
    for recipe in (small, base):
        assert recipe().build().claims == CLAIMS


def test_parts_can_be_left_out():
    grid = replace(small(), architectures=("decoder, causal",), objectives=("full LM",)).build()
    assert [cell.row for cell in grid.cells] == ["decoder, causal / full LM"] * 2
    assert grid.claims == ()
    assert isinstance(small(), Comparison)
