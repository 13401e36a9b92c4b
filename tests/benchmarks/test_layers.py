"""The benchmarks of layers and of decoding print a row for each model, at the smallest sizes."""

import pytest

from benchmarks import decoding, experts, grid_mixers, mixers

pytestmark = pytest.mark.slow


def run(benchmark, options):
    assert benchmark.main(options.split()) == 0


def rows(capsys):
    lines = capsys.readouterr().out.strip().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_experts_have_the_flops_of_the_dense_layer(capsys):
    run(experts, "--width 16 --inner 16 --lengths 64 --tokens 4096 --rounds 1")
    found = {row[0]: [float(row[2]), float(row[4])] for row in rows(capsys)}
    dense, free, full, more = found.values()
    assert dense[1] == 1
    assert free[0] == full[0] == pytest.approx(dense[0], rel=0.2)  # the router
    assert more[0] > full[0]


def test_a_mixer_stands_beside_attention_with_each_backend(capsys):
    run(mixers, "--mixers mamba2 --width 64 --lengths 32 --tokens 64 --rounds 1 --chunks 8 16")
    assert [row[:3] for row in rows(capsys)] == [["mamba2", "32", "8"], ["mamba2", "32", "16"]]


def test_the_state_of_recurrent_mixers_is_constant(capsys, tmp_path):
    plot = tmp_path / "decoding.png"
    run(decoding, f"--lengths 64 128 --width 64 --rounds 1 --mixers attention retention --plot {plot}")
    (_, _, _, *attention), (_, _, _, *retention) = rows(capsys)
    assert int(attention[1]) == pytest.approx(2 * int(attention[0]), rel=0.1)
    assert retention[0] == retention[1]
    assert plot.stat().st_size > 1000


def test_the_rows_of_the_grid_are_timed_beside_attention(capsys):
    run(grid_mixers, "--rows RetNet --length 16 --batch-size 8 --decoded 8 --rounds 1 --equal parameters")
    attention, retnet = rows(capsys)
    assert [attention[0], retnet[0]] == ["attention", "RetNet"]
    assert attention[3] == attention[5] == "1.00"
    assert float(retnet[3]) > 0
