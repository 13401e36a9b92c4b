"""Make the plans of large presets in docs/planning.md: `python -m tests.plan.large DIRECTORY [NAME ...]`.

Each plan takes minutes and needs the compilers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PLANS = {
    "t5-11b-v5e-256": "t5:1.0-11b --topology v5e-256 --mesh.tensor 16",
    "t5-11b-v5p-128": "t5:1.0-11b --topology v5p-128",
    "t5-11b-h100-32": "t5:1.0-11b --topology h100:4x8",
    "gpt-175b-v5p-1024": "gpt:3-175b --topology v5p-1024 --batch-size 256",
    "gpt-175b-h100-512": "gpt:3-175b --topology h100:64x8 --batch-size 256",
    "bert-large-v5e-16": "bert:large --topology v5e-16 --mesh.data 1 --mesh.fsdp 16 --model.dtype bfloat16 --model.remat dots_no_batch",
    "bert-large-two-slices": "bert:large --topology v5e:4x4*2 --mesh.data 2 --mesh.fsdp 16 --model.dtype bfloat16 --model.remat dots_no_batch",
    "bert-large-too-large": "bert:large --topology v5e-16 --model.dtype bfloat16",
}


def main(directory: str, *names: str) -> int:
    """Make all plans, or those with the given names. Return the highest exit code of the plans that should fit."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    worst = 0
    for name in names or PLANS:
        base = Path(directory) / name
        command = [sys.executable, "-m", "t2t.launch", "plan", *PLANS[name].split(), "--json", f"{base}.json"]
        with open(f"{base}.txt", "w", encoding="utf-8") as out:
            code = subprocess.run(command, stdout=out, check=False).returncode
        print(f"{name}: {'fits' if code == 0 else 'does not fit' if code == 1 else f'failed ({code})'}", flush=True)
        worst = max(worst, code if "too-large" not in name or code > 1 else 0)
    return worst


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
