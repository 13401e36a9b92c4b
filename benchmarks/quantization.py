"""Loss curves of one recipe in float32, bfloat16 and eight bits, from the same seed on the same batches.

    python -m benchmarks.quantization OUT [--recipe t5:quickstart] [--steps 300] [--seed 0] [--variants float32 bfloat16 int8 fp8 ...] [-- OPTION ...]

A variant is a type of computing, a quantization, or both: "float32", "bfloat16", "int8" (float32 elsewhere), "bfloat16+int8". Each is a run
OUT/VARIANT of `t2t train`, one after the other; the same command goes on where it was interrupted. Written after each: OUT/curves.json and
OUT/curves.png. The learning rate falls over the steps that are asked for (recipes with a cosine schedule: the quickstarts). What follows `--` are more options of `t2t train`, for all runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DTYPES, QUANTIZATIONS = ("float32", "bfloat16"), ("int8", "fp8")
SMOOTH = 0.1
"""Share of the steps over which the curves are averaged at the end and in the picture."""


def options(variant: str) -> list[str]:
    """Return a variant's options of `t2t train`. Raises ValueError for what is none."""
    parts = variant.split("+")
    dtypes, quantizations = ([part for part in parts if part in known] for known in (DTYPES, QUANTIZATIONS))
    if len(dtypes) + len(quantizations) != len(parts) or len(dtypes) > 1 or len(quantizations) > 1:
        raise ValueError(
            f"variant {variant!r}: one of {', '.join(DTYPES + QUANTIZATIONS)}, or of each kind one with + between"
        )
    dtype, quantization = (dtypes or ["float32"])[0], (quantizations or ["none"])[0]
    return ["--model.dtype", dtype, "--model.quantization", quantization]


def train(directory: Path, variant: str, given: argparse.Namespace) -> int:
    """Train a variant to its last step, or go on with it; return the exit code."""
    words = [sys.executable, "-m", "t2t.launch", "train", given.recipe, "--dir", str(directory), *options(variant)]
    words += ["--steps", str(given.steps), "--seed", str(given.seed), "--log-every", str(max(given.steps // 100, 1))]
    words += ["--optimizer.schedule.steps", str(given.steps)]
    words += ["--optimizer.schedule.warmup", str(min(100, given.steps // 3))]
    words += ["--checkpoint-every", "100", *given.more]
    return subprocess.run(words, check=False).returncode


def read(directory: Path) -> dict[str, Any] | None:
    """Return a run's steps and losses, and those of its evaluation, or None where it has not begun."""
    file = directory / "metrics.jsonl"
    if not file.exists():
        return None
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    logged = [line for line in lines if "loss" in line]
    if not logged:
        return None
    curve: dict[str, Any] = {
        "steps": [line["step"] for line in logged],
        "loss": [float(line["loss"]) for line in logged],
    }
    last = max(int(len(logged) * SMOOTH), 1)
    curve["final_loss"] = sum(curve["loss"][-last:]) / last
    curve["final"] = {name: value for line in lines for name, value in line.items() if name not in ("time", "elapsed")}
    machine = directory / "machine.json"
    if machine.exists():
        curve["machine"] = json.loads(machine.read_text(encoding="utf-8"))
    return curve


def smooth(values: list[float], width: int) -> list[float]:
    """Return each value's mean with the up to `width - 1` before it."""
    return [sum(values[max(i - width + 1, 0) : i + 1]) / (i + 1 - max(i - width + 1, 0)) for i in range(len(values))]


def draw(curves: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    """Draw the curves beside each other, and how much each is above the first."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5))
    first = next(iter(curves.values()))
    name = next(iter(curves))
    for variant, curve in curves.items():
        width = max(int(len(curve["loss"]) * SMOOTH), 1)
        left.plot(curve["steps"], curve["loss"], label=f"{variant}: {curve['final_loss']:.4f} at the end", linewidth=1)
        both = [(step, a, b) for step, a, b in zip(curve["steps"], curve["loss"], first["loss"], strict=False)]
        right.plot(
            [step for step, _, _ in both], smooth([a - b for _, a, b in both], width), label=variant, linewidth=1
        )
    left.set(xlabel="step", ylabel="loss", title=title)
    right.set(xlabel="step", ylabel=f"loss - loss of {name}", title=f"difference, mean over {SMOOTH:.0%} of the steps")
    left.legend()
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: list[str]) -> int:
    """Train the variants and draw them; return 0, or the exit code of the run that failed or was stopped."""
    words = argparse.ArgumentParser(prog="benchmarks.quantization", description=__doc__, allow_abbrev=False)
    words.add_argument("out", type=Path)
    words.add_argument("--recipe", default="t5:quickstart")
    words.add_argument("--steps", type=int, default=300)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--variants", nargs="+", default=["float32", "bfloat16", "int8", "fp8"])
    own, more = (
        (arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :])
        if "--" in arguments
        else (arguments, [])
    )
    given = words.parse_args(own)
    given.more = more
    for variant in given.variants:
        try:
            options(variant)
        except ValueError as error:
            words.error(str(error))
    given.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[str, Any]] = {}
    for variant in given.variants:
        code = train(given.out / variant, variant, given)
        curve = read(given.out / variant)
        if curve is not None:
            curves[variant] = curve
            told = {
                "recipe": given.recipe,
                "steps": given.steps,
                "seed": given.seed,
                "options": given.more,
                "curves": curves,
            }
            (given.out / "curves.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            draw(curves, given.out / "curves.png", f"{given.recipe}, seed {given.seed}")
        if code:
            print(f"{variant}: t2t train ended with {code}; the same command goes on", file=sys.stderr)
            return code
    for variant, curve in curves.items():
        print(
            f"{variant:>16}  loss {curve['final_loss']:.4f}  {curve['final_loss'] / next(iter(curves.values()))['final_loss'] - 1:+.2%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
