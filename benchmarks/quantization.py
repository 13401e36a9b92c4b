"""Compare the loss curves of one recipe in float32, bfloat16, int8, fp8 and with ternary weights, with the same seed and the same batches.

    python -m benchmarks.quantization OUT [--recipe t5:quickstart] [--steps 300] [--seed 0] [--variants float32 bfloat16 int8 fp8 ...] [-- OPTION ...]

A variant is a dtype, a quantization, or both: "float32", "bfloat16", "int8" (with float32), "bfloat16+int8". Each variant is a run of `t2t train` in
OUT/VARIANT. The runs go one after another, and each updates OUT/curves.json and OUT/curves.png. If interrupted, run the same command again to resume.
The learning rate decays over --steps (for recipes with a cosine schedule, such as the quickstarts). Options after `--` go to `t2t train` in all runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

DTYPES, QUANTIZATIONS = ("float32", "bfloat16"), ("int8", "fp8", "ternary")
SMOOTH = 0.1
"""Fraction of the steps over which the final loss and the plotted differences are averaged."""


def options(variant: str) -> list[str]:
    """Return the `t2t train` options of a variant. Raise ValueError if the variant is invalid."""
    parts = variant.split("+")
    dtypes, quantizations = ([part for part in parts if part in known] for known in (DTYPES, QUANTIZATIONS))
    if len(dtypes) + len(quantizations) != len(parts) or len(dtypes) > 1 or len(quantizations) > 1:
        raise ValueError(
            f"variant {variant!r} is invalid: expected {' or '.join(DTYPES)}, {' or '.join(QUANTIZATIONS)}, or one of each joined by +"
        )
    dtype, quantization = (dtypes or ["float32"])[0], (quantizations or ["none"])[0]
    return ["--model.dtype", dtype, "--model.quantization", quantization]


def train(directory: Path, variant: str, chosen: argparse.Namespace) -> int:
    """Train a variant to its last step, or resume it. Return the exit code."""
    command = [sys.executable, "-m", "t2t.launch", "train", chosen.recipe, "--dir", str(directory), *options(variant)]
    command += ["--steps", str(chosen.steps), "--seed", str(chosen.seed)]
    command += ["--log-every", str(max(chosen.steps // 100, 1))]
    command += ["--optimizer.schedule.steps", str(chosen.steps)]
    command += ["--optimizer.schedule.warmup", str(min(100, chosen.steps // 3))]
    command += ["--checkpoint-every", "100", *chosen.more]
    return subprocess.run(command, check=False).returncode


def read(directory: Path) -> dict[str, Any] | None:
    """Return the steps, losses and final metrics of a run; None if the run has not logged a loss yet."""
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
    """Return the moving average: the mean of each value and up to `width - 1` values before it."""
    return [sum(values[max(i - width + 1, 0) : i + 1]) / (i + 1 - max(i - width + 1, 0)) for i in range(len(values))]


def draw(curves: dict[str, dict[str, Any]], path: Path, title: str) -> None:
    """Plot the loss curves, and the difference of each curve to the first."""
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
    """Train the variants and plot them. Return 0, or the exit code of the run that failed or was stopped."""
    parser = argparse.ArgumentParser(prog="benchmarks.quantization", description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="t5:quickstart")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", default=["float32", "bfloat16", "int8", "fp8"])
    end = arguments.index("--") if "--" in arguments else len(arguments)
    chosen = parser.parse_args(arguments[:end])
    chosen.more = arguments[end + 1 :]
    for variant in chosen.variants:
        try:
            options(variant)
        except ValueError as error:
            parser.error(str(error))
    chosen.out.mkdir(parents=True, exist_ok=True)
    curves: dict[str, dict[str, Any]] = {}
    for variant in chosen.variants:
        code = train(chosen.out / variant, variant, chosen)
        curve = read(chosen.out / variant)
        if curve is not None:
            curves[variant] = curve
            results = {
                "recipe": chosen.recipe,
                "steps": chosen.steps,
                "seed": chosen.seed,
                "options": chosen.more,
                "curves": curves,
            }
            (chosen.out / "curves.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            draw(curves, chosen.out / "curves.png", f"{chosen.recipe}, seed {chosen.seed}")
        if code:
            print(
                f"{variant}: t2t train exited with code {code}; run the same command again to resume", file=sys.stderr
            )
            return code
    for variant, curve in curves.items():
        print(
            f"{variant:>16}  loss {curve['final_loss']:.4f}  {curve['final_loss'] / next(iter(curves.values()))['final_loss'] - 1:+.2%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
