"""The grid of mixers: equal sizes, its rows, and a real grid of two rows."""

from __future__ import annotations

import pytest

from t2t.errors import UserError
from t2t.launch.grid.decoding import state_bytes
from t2t.launch.grid.matching import flops_per_token, match, parameters
from t2t.launch.grid.mixer_claims import CLAIMS
from t2t.launch.grid.mixer_models import REFERENCE, ROWS, Choices, decoder
from t2t.launch.grid.mixers import Mixers, Part, mixers
from t2t.launch.main import run
from t2t.plan.flops import count
from t2t.train.program import Program

TINY = Part(num_layers=4, d_model=32, num_heads=2, d_ff=128, length=32, batch_size=4, steps=4, examples=16)
CHOICES = Choices(chunk=8, hybrid=1, num_experts=4)


def test_the_nearest_size_on_a_line_is_found_and_the_rest_reported():
    found = match(lambda size: 100.0 + 7 * size, 500.0, multiple=8, what="a row")
    assert found.size == 56
    assert found.difference == pytest.approx((100 + 7 * 56) / 500 - 1)
    with pytest.raises(UserError, match=r"a row: .* width 8 \(--multiple\), the model has 156, more than the 100"):
        match(lambda size: 100.0 + 7 * size, 100.0, multiple=8, what="a row")


@pytest.mark.parametrize("row", ["gated DeltaNet", pytest.param("RWKV-7", marks=pytest.mark.slow)])
def test_flops_for_each_token_are_those_of_the_plan(row):
    grid = Mixers(data=("recall",), rows=(row,), equal=("parameters",), pairs=4, recall=TINY, models=CHOICES).build()
    experiment = grid.cells[-1].experiment
    rows = experiment.data.batch_size * TINY.length
    counted = count(Program.of(experiment, experiment.mesh.build())).model / rows
    assert flops_per_token(experiment.model, TINY.length) == pytest.approx(counted, rel=1e-9)


@pytest.mark.slow  # traces all rows
@pytest.mark.parametrize("equal", ["parameters", "FLOPs"])
def test_all_rows_have_as_much_as_the_reference(equal):
    grid = Mixers(data=("recall",), equal=(equal,), multiple=1, pairs=4, recall=TINY, models=CHOICES).build()
    size = parameters if equal == "parameters" else lambda model: flops_per_token(model, TINY.length)
    sizes = {cell.architecture: size(cell.experiment.model) for cell in grid.cells}
    assert tuple(sizes) == ROWS
    for row, value in sizes.items():
        assert value == pytest.approx(sizes[REFERENCE], rel=0.015), row  # one unit more of four experts in four layers
    assert len(grid.notes) == len(ROWS) - 1


def test_the_reference_is_nanogpts_model_and_recipe():
    part = mixers().characters
    model = decoder(REFERENCE, part, Choices(), d_ff=part.d_ff, vocab_size=65)
    # nanoGPT reports its size without positions: 0.80M for these options.
    assert parameters(model) - part.length * part.d_model == 795_904
    assert (part.length, part.batch_size, part.steps, part.peak) == (64, 12, 2_000, 1e-3)


def test_published_orderings_are_about_rows_and_measures_of_the_grid():
    rows = {claim_row for claim in CLAIMS for claim_row in (*claim.better, *claim.than)}
    assert {row.partition(" / ")[0] for row in rows} <= set(ROWS)
    assert {claim.stage for claim in CLAIMS} <= {"documentation", "recall"}


def test_the_state_of_attention_grows_and_that_of_a_recurrent_mixer_does_not():
    attention, recurrent = (decoder(row, TINY, CHOICES, d_ff=16, vocab_size=8) for row in (REFERENCE, "gated DeltaNet"))
    assert state_bytes(attention, 8) == 4 * 2 * 8 * 32 * 4  # layers, keys and values, tokens, width, bytes
    assert state_bytes(attention, 64) == 8 * state_bytes(attention, 8)
    assert state_bytes(recurrent, 8) == state_bytes(recurrent, 64) > 4 * 2 * 12 * 24 * 4  # layers, heads, memory, bytes


@pytest.mark.slow  # real trainings
def test_a_grid_of_two_rows_is_trained_measured_and_not_repeated(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("".join(f"{n} times {n} is {n * n}\n" for n in range(2_000)))
    sizes = {"num-layers": 2, "d-model": 16, "num-heads": 2, "d-ff": 64, "length": 32}
    training = {"batch-size": 8, "steps": 4, "examples": 8}
    parts = [
        word
        for part in ("characters", "documentation", "recall")
        for name, value in (sizes | training).items()
        for word in (f"--{part}.{name}", str(value))
    ]
    words = ["grid", "mixers", "--text", str(tmp_path / "text.txt"), "--dir", str(tmp_path / "grid"), "--pairs", "4"]
    words += ["--rows", "RetNet", "--equal", "parameters", "--decoded", "8", "16", "--models.chunk", "8", *parts]
    assert run(words) == 0
    table = (tmp_path / "grid" / "table.md").read_text()
    assert table.startswith("|  | loss, characters | loss, documentation | recall, recall | parameters |")
    assert "| attention / the reference |" in table
    assert "| RetNet / equal parameters |" in table
    assert "KB after 16 tokens" in table
    assert "6 of 6 trainings done" in table
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "grid" / "cells").rglob("done.json")}
    assert len(before) == 6
    capsys.readouterr()
    assert run(words) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    (tmp_path / "text.txt").write_text("another text. " * 2_000)
    assert run(words) == 2  # the directory has a grid of another text
    assert "differs in" in capsys.readouterr().err
