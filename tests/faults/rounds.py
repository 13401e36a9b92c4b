"""Train, kill at random moments, restart and compare: `python -m tests.faults.rounds --rounds 200` (`make faults`).

Each round runs a real training that is killed with SIGKILL once or several times, at random moments drawn from a seed: before its first step, between
steps, while it writes the arrays of a checkpoint, between the commit and the checksums of a checkpoint, or while it restores. It is restarted until it
finishes. Then all parameters, the optimizer state, the PRNG key and the loss of every step must be bitwise equal to those of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.training import TINY, Setting, Training, arrays, differences, losses

PHASES = ("start", "restore", "step", "save", "commit")


@dataclass(kw_only=True)
class Round:
    """The outcome of a round.

    struck:    phases in which the training was killed.
    survivors: seconds until the other processes ended, for each kill.
    """

    number: int
    struck: list[str] = field(default_factory=list)
    survivors: list[float] = field(default_factory=list)
    starts: int = 0
    mismatches: list[str] = field(default_factory=list)
    seconds: float = 0.0


def strike(training: Training, phase: str, chance: random.Random) -> str | None:
    """Kill one process in a phase. Return the phase, or None if the training ended before."""
    if phase == "start":
        time.sleep(chance.uniform(0, 2.0))
    else:
        beginning = {"restore": "resuming from", "step": "start "}.get(phase, "start ")
        if not _told(training, beginning):
            return None
        if phase == "restore":
            time.sleep(chance.uniform(0, 0.3))
        elif phase == "step":
            if chance.random() < 0.5 and not _seen(training, "sealed"):
                return None
            time.sleep(chance.uniform(0, 0.5))
        else:
            time.sleep(chance.uniform(0, 0.5))  # so that it is not always the first save
            if not _seen(training, phase):
                return None
    if not all(process.is_alive() for process in training.processes):
        return None
    chance.choice(training.processes).kill()
    return phase


def _told(training: Training, beginning: str) -> bool:
    while not any(line.startswith(beginning) for line in training.marked()):
        if not training.alive():
            return False
        time.sleep(0.001)
    return True


def _seen(training: Training, phase: str) -> bool:
    """Wait for a checkpoint that is being written ("save"), is committed but has no checksums yet ("commit"), or has checksums ("sealed")."""
    checkpoints = training.setting.directory / "checkpoints"
    while training.alive():
        entries = list(checkpoints.iterdir()) if checkpoints.is_dir() else []
        partial = [entry for entry in entries if ".orbax-checkpoint-tmp" in entry.name]
        whole = [_sealed(entry) for entry in entries if entry.name.isdigit()]
        if {"save": bool(partial), "commit": not all(whole), "sealed": any(whole)}[phase]:
            return True
        time.sleep(0.0005)  # leave the CPU to the training
    return False


def _sealed(entry: Path) -> bool:
    return any(entry.glob("checksums-*.json"))


def play(number: int, setting: Setting, expected: tuple, seed: int) -> Round:
    """Run one round."""
    chance, result, began = random.Random(f"{seed}/{number}"), Round(number=number), time.monotonic()
    # Cycle through the phases. A restore needs a checkpoint, so a step comes first.
    planned = [PHASES[number % len(PHASES)], *chance.choices(PHASES, k=chance.randrange(2))]
    if planned[0] == "restore":
        planned.insert(0, "step")
    while True:
        if planned[:1] == ["restore"] and not any(map(_sealed, (setting.directory / "checkpoints").glob("[0-9]*"))):
            planned.insert(0, "step")  # there is no checkpoint to restore yet
        training = Training(setting)
        result.starts += 1
        struck = strike(training, planned.pop(0), chance) if planned else None
        if struck:
            result.struck.append(struck)
            killed = time.monotonic()
            codes = training.join(30)
            if len(codes) > 1:
                result.survivors.append(time.monotonic() - killed)
            if None in codes:
                result.mismatches.append(f"a process was alive 30 s after another was killed: {codes}")
            continue
        codes = training.join()
        if not any(codes):
            break
        if None in codes or result.starts > 10:
            result.mismatches.append(f"exit codes {codes}: {training.text()[-500:]}")
            break
    if not result.mismatches:
        final, wanted = arrays(setting.directory), losses(setting.directory)
        result.mismatches += differences(expected[0], final)
        result.mismatches += [f"loss of step {step}" for step, loss in expected[1].items() if wanted.get(step) != loss]
    result.seconds = time.monotonic() - began
    return result


def rounds(count: int, *, seed: int, processes: int, work: Path, first: int = 0, show=print) -> list[Round]:
    """Run several rounds and compare each with one uninterrupted run. Return the outcomes."""
    base = Setting(directory=work / "whole", processes=processes, devices=2 if processes > 1 else 1, cache=work / "xla")
    whole = Training(base)
    codes = whole.join()
    assert not any(codes), whole.text()
    expected = arrays(base.directory), losses(base.directory)
    assert len(expected[1]) == TINY.steps
    results = []
    for number in range(first, first + count):
        setting = Setting(
            directory=work / f"round-{number}", processes=processes, devices=base.devices, cache=base.cache
        )
        result = play(number, setting, expected, seed)
        results.append(result)
        show(
            f"round {number:4}  killed in {', '.join(result.struck) or 'nothing':24} {result.starts} starts  {result.seconds:5.1f} s  "
            + ("same" if not result.mismatches else f"DIFFERENT: {result.mismatches[:3]}"),
            flush=True,
        )
        if not result.mismatches:
            shutil.rmtree(setting.directory)
    return results


def table(results: list[Round]) -> str:
    """Return a summary of the rounds as text."""
    kills = collections.Counter(phase for result in results for phase in result.struck)
    survivors = sorted(seconds for result in results for seconds in result.survivors)
    wrong = [result.number for result in results if result.mismatches]
    lines = [f"{len(results)} rounds, {sum(kills.values())} kills, {sum(result.starts for result in results)} starts"]
    lines += [f"  killed in {phase:8} {kills[phase]:5}" for phase in PHASES]
    if survivors:
        middle = survivors[len(survivors) // 2]
        lines.append(f"  other processes ended after: median {middle:.1f} s, at most {survivors[-1]:.1f} s")
    lines.append(f"mismatches {len(wrong)}{f': rounds {wrong}' if wrong else ''}")
    return "\n".join(lines)


def main() -> int:
    """Run the rounds and print the summary. Return 1 if a round has mismatches."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first round, to repeat a single round")
    given = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory(prefix="t2t-faults-") as work:
        results = rounds(given.rounds, seed=given.seed, processes=given.processes, work=Path(work), first=given.first)
    print(table(results))
    return 1 if any(result.mismatches for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
