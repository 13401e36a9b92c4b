"""Time the rows of `t2t grid mixers` side by side: a training step, and decoding one more token after short and long texts.

    python -m benchmarks.grid_mixers [--equal FLOPs] [--length 64] [--batch-size 12] [--decoded 128 1024] [--rounds 7] [--rows ROW ...]

The models have the sizes of the grid on characters, a vocabulary of bytes, and random parameters and tokens. The rounds are interleaved: each runs all rows once. Shown are medians, and
ratios to attention: medians of the ratios within the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import jax
import numpy as np

from t2t.launch.grid.decoding import Decoding, state_bytes
from t2t.launch.grid.matching import Equal
from t2t.launch.grid.mixer_models import ROWS
from t2t.launch.grid.mixers import Mixers
from t2t.train.experiment import Experiment
from t2t.train.program import Program

STEPS = 5
"""Training steps of a round."""


def training(experiment: Experiment, vocab_size: int) -> Callable[[], float]:
    """Return a function that runs some training steps and returns the seconds of one."""
    program = Program.of(experiment, experiment.mesh.build())
    abstract = program.abstract_batch()
    step, state = program.compiled(abstract), program.create(0)
    draw = np.random.default_rng(0)

    def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        whole = np.issubdtype(leaf.dtype, np.integer)
        values = draw.integers(3, vocab_size, leaf.shape) if whole else np.ones(leaf.shape)
        return jax.device_put(values.astype(leaf.dtype), leaf.sharding)

    batch = jax.tree.map(filled, abstract)
    tokens = batch.decoder
    rows, length = tokens.ids.shape
    places = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    sharding = program.batch_sharding()
    tokens = replace(
        tokens,
        positions=jax.device_put(places, sharding),
        segments=jax.device_put(np.ones_like(places), sharding),
        prefix=None if tokens.prefix is None else jax.device_put(np.zeros_like(places), sharding),
    )
    batch = replace(batch, decoder=tokens)

    def run() -> float:
        nonlocal state
        began = time.perf_counter()
        for _ in range(STEPS):
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        return (time.perf_counter() - began) / STEPS

    run()
    return run


def main(arguments: list[str]) -> int:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(prog="benchmarks.grid_mixers", description=__doc__, allow_abbrev=False)
    parser.add_argument("--equal", choices=get_args(Equal), default="FLOPs")
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--decoded", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=ROWS)
    chosen = parser.parse_args(arguments)
    design = Mixers(data=("documentation",), equal=(chosen.equal,), rows=tuple(chosen.rows))
    part = replace(design.characters, length=chosen.length, batch_size=chosen.batch_size)
    cells = replace(design, documentation=part).build().cells
    names = [cell.architecture for cell in cells]
    runs = [
        [
            training(cell.experiment, cell.experiment.model.vocab_size),
            *(Decoding(cell.experiment.model, tokens).seconds for tokens in chosen.decoded),
        ]
        for cell in cells
    ]
    rounds = [[[run() for run in row] for row in runs] for _ in range(chosen.rounds)]
    kilobytes = [[state_bytes(cell.experiment.model, tokens) / 1000 for tokens in chosen.decoded] for cell in cells]
    titles = ["training step", *(f"decoding after {tokens:,}" for tokens in chosen.decoded)]
    print(f"| equal {chosen.equal} | tokens/s | " + " | ".join(f"{title}, ms | ratio" for title in titles), end=" |")
    print("".join(f" KB after {tokens:,} |" for tokens in chosen.decoded))
    print("| --- |" + " ---: |" * (1 + 2 * len(titles) + len(chosen.decoded)))
    for place, name in enumerate(names):
        middle = [statistics.median(one[place][column] for one in rounds) for column in range(len(titles))]
        ratios = [
            statistics.median(one[place][column] / one[0][column] for one in rounds) for column in range(len(titles))
        ]
        shown = " | ".join(f"{1000 * value:.2f} | {ratio:.2f}" for value, ratio in zip(middle, ratios, strict=True))
        sizes = " | ".join(f"{size:,.1f}" for size in kilobytes[place])
        print(f"| {name} | {part.batch_size * part.length / middle[0]:,.0f} | {shown} | {sizes} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
