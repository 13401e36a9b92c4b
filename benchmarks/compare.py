"""Compare libraries: `python -m benchmarks.compare train|layer|decode|data [--cases ...] [--peers ours,transformers,t5x] --out results.json`."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cases as known
from benchmarks.cases import Case
from benchmarks.environments import DIRECTORY, interpreter
from benchmarks.process import Lost
from benchmarks.session import OURS, Session, stopping
from benchmarks.table import picture, text
from t2t.errors import UserError, nearest

PEERS = (OURS, "transformers", "transformers_compiled", "t5x", "maxtext")
TOLERANCE = 1e-4
"""Largest allowed difference between our loss and the loss of transformers with our parameters, in nats per token."""


def command(peer: str, chosen: argparse.Namespace) -> list[str]:
    """Return the command that starts a peer. Raise UserError if the peer is unknown or has no environment."""
    if peer not in PEERS:
        raise UserError(f"unknown peer {peer!r} (--peers).{nearest(peer, PEERS)}")
    module = {"transformers": "huggingface", "transformers_compiled": "huggingface"}.get(peer, peer)
    start = ["-m", f"benchmarks.peers.{module}"]
    if peer == OURS:
        return [sys.executable, *start]
    python = str(interpreter(chosen.environments, peer.removesuffix("_compiled")))
    if module == "huggingface":
        more = ["--compile"] if peer.endswith("_compiled") else []
        return [python, *start, "--threads", str(chosen.threads), *more]
    if peer == "t5x":
        if chosen.t5x is None or not (chosen.t5x / "t5x" / "trainer.py").exists():
            raise UserError(
                f"T5X not found in {chosen.t5x} (--t5x). Nearest: the directory of a checkout, which contains t5x/trainer.py."
            )
        return [python, *start, "--checkout", str(chosen.t5x.absolute())]
    return [python, *start]


def parse_list(value: str, choices: Sequence[str], option: str) -> list[str]:
    """Return the names in a comma-separated list. Raise UserError if the list is empty or a name is unknown."""
    names = [name for name in value.split(",") if name]
    for name in names:
        if name not in choices:
            raise UserError(f"unknown {name!r} ({option}).{nearest(name, choices)}")
    if not names:
        raise UserError(f"{option} is empty. Nearest: {','.join(choices)}.")
    return names


def selected_cases(chosen: argparse.Namespace) -> list[Case]:
    """Return the selected cases. Raise UserError if an option is invalid."""
    choices = {"train": known.TRAIN, "layer": known.LAYERS, "decode": known.DECODE, "data": known.DATA}[chosen.work]
    models = list(choices) if chosen.cases is None else parse_list(chosen.cases, choices, "--cases")
    if chosen.work == "train":
        optimizers = parse_list(chosen.optimizers, known.OPTIMIZERS, "--optimizers")
        return known.train_cases(models, optimizers, chosen.scale)
    if chosen.work == "layer":
        return known.layer_cases(models, chosen.scale)
    if chosen.work == "data":
        return known.data_cases(models, chosen.scale)
    numbers = chosen.rows.split(",")
    for number in numbers:
        if not number.isdigit() or int(number) < 1:
            raise UserError(f"{number!r} (--rows) is not a number of prompts. Nearest: 1.")
    decodings = parse_list(chosen.decodings, known.DECODINGS, "--decodings")
    return known.decode_cases(models, decodings, [int(number) for number in numbers], chosen.scale)


def check_losses(session: Session, cases: Sequence[Case]) -> bool:
    """Check that transformers has the same number of parameters and the same loss with our parameters. Print the result; return False on failure."""
    good, models = True, {case.model: case for case in cases}
    for name, case in models.items():
        with tempfile.TemporaryDirectory() as folder:
            request = {"check": asdict(case), "directory": str(Path(folder) / "model")}
            try:
                ours, theirs = (session.ask(peer, request) for peer in (OURS, "transformers"))
            except Lost as reason:
                ours, theirs = {"error": str(reason)}, {}
        failed = ours.get("error") or theirs.get("error")
        if "unsupported" in theirs:
            print(f"{name}: {theirs['unsupported']}")
        elif failed:
            print(f"{name}: NOT COMPARED: {failed}")
            good = False
        else:
            difference = abs(ours["loss"] - theirs["loss"])
            equal = difference <= TOLERANCE and ours["parameters"] == theirs["parameters"]
            good &= equal
            counts = f"{ours['parameters']:,} and {theirs['parameters']:,} parameters"
            print(
                f"{name}: {counts}, losses {ours['loss']:.6f} and {theirs['loss']:.6f}: {'the same' if equal else 'DIFFERENT'}"
            )
        session.results.setdefault("checks", {})[name] = {"ours": ours, "transformers": theirs}
    session.save()
    return good


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare")
    parser.add_argument("work", choices=("train", "layer", "decode", "data"))
    parser.add_argument("--cases", help="models, comma-separated (default: all)")
    parser.add_argument("--optimizers", default="adamw,adafactor", help="for train, comma-separated")
    parser.add_argument("--decodings", default="greedy,sampling,beam", help="for decode, comma-separated")
    parser.add_argument("--rows", default="1,8,64", help="for decode: numbers of prompts, comma-separated")
    parser.add_argument(
        "--scale", choices=tuple(known.SCALES), default="full", help="tiny runs everything in about a minute"
    )
    parser.add_argument("--peers", default="ours,transformers", help=f"comma-separated: {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each peer in a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=float, default=900.0, help="timeout of one answer of a peer, in seconds")
    parser.add_argument("--check", action="store_true", help="first check that transformers does the same work")
    parser.add_argument("--environments", type=Path, default=Path(DIRECTORY), metavar="DIR")
    parser.add_argument("--t5x", type=Path, metavar="DIR", help="a checkout of T5X")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"), metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="default: --out with the suffix .svg")
    return parser.parse_args(words)


def run(words: Sequence[str] | None = None) -> int:
    """Measure and print the table. Return the exit code: 0, 1 if a check or a peer fails, 75 if interrupted. Raise UserError for invalid options."""
    chosen = parse(words)
    for name in ("rounds", "repeats", "threads"):
        if getattr(chosen, name) < 1:
            raise UserError(f"--{name} {getattr(chosen, name)} is less than 1. Nearest: 1.")
    cases = selected_cases(chosen)
    peers = list(dict.fromkeys([OURS, *parse_list(chosen.peers, PEERS, "--peers")]))
    if chosen.check and "transformers" not in peers:
        raise UserError(
            f"--check compares with transformers, which is missing in --peers {chosen.peers}. Nearest: {chosen.peers},transformers."
        )
    commands = {peer: command(peer, chosen) for peer in peers}
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    facts: dict[str, Any] = {"argv": sys.argv[1:] if words is None else list(words), "threads": chosen.threads}
    facts |= {"machine": platform.platform(), "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()}
    code = 0
    with (
        stopping([signal.SIGTERM]),
        Session(commands, chosen.out, threads=chosen.threads, limit=chosen.limit, log=_log, facts=facts) as session,
    ):
        try:
            if chosen.check and not check_losses(session, cases):
                code = 1
            session.results["ceilings"] = session.ask(OURS, {"ceilings": None})
            for case in cases:
                session.measure(case, rounds=chosen.rounds, repeats=chosen.repeats)
        except KeyboardInterrupt:
            code = 75
        except Lost as reason:
            print(reason, file=sys.stderr)
            code = 1
        session.save()
    print(text(session.results))
    plot = chosen.plot or chosen.out.with_suffix(".svg")
    if picture(session.results, plot):
        _log(f"{chosen.out}, {plot}")
    return code


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Run the comparison. An invalid option prints one line and exits with code 2."""
    try:
        sys.exit(run())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
