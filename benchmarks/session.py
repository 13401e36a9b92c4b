"""Measure peers in turns. In each round, one peer computes at a time while the others wait. Results are saved after every round."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.cases import Case
from benchmarks.process import Lost, Peer
from benchmarks.protocol import Answer

OURS = "ours"


class Session:
    """The processes of the peers, and the results so far.

    results: {"peers": {PEER: {"versions": ...}}, "cases": [{"name", "case", "peers": {PEER: facts, "rounds", "cpu", "idle" or "error"}}], ...}.
    `rounds` is one list of seconds per round. `cpu` is the CPU seconds of the peer since its last turn, including work that it did ahead in the turns
    of other peers. `idle` is the CPU seconds that the other peers used in the turn of this peer.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        out: Path,
        *,
        threads: int = 2,
        limit: float = 600.0,
        log: Callable[[str], None] = print,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._commands, self._out, self._threads, self._limit, self._log = commands, out, threads, limit, log
        self._peers: dict[str, Peer] = {}
        self.results: dict[str, Any] = {**(facts or {}), "peers": {name: {} for name in commands}, "cases": []}

    def __enter__(self) -> Session:
        for name in self._commands:
            with contextlib.suppress(Lost):
                self.results["peers"][name]["versions"] = self.ask(name, {"versions": None})
                self._log(f"{name}: {json.dumps(self.results['peers'][name]['versions'])}")
        return self

    def __exit__(self, *unused: object) -> None:
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def ask(self, name: str, request: Mapping[str, Any]) -> Answer:
        """Return a peer's answer. Start the peer if it is not running. Raise Lost if it exits or times out."""
        if name not in self._peers:
            log = self._out.with_suffix(f".{name}.log")
            self._peers[name] = Peer(name, self._commands[name], log=log, threads=self._threads)
        try:
            return self._peers[name].ask(request, limit=self._limit)
        except Lost:
            del self._peers[name]
            raise

    def measure(self, case: Case, *, rounds: int, repeats: int) -> None:
        """Measure a case in all peers that support it, with `repeats` runs per round. Save after each round."""
        found: dict[str, dict[str, Any]] = {}
        self.results["cases"].append({"name": case.name, "case": asdict(case), "peers": found})
        for name in self._commands:
            found[name] = self._try(name, {"prepare": asdict(case)})
            self._log(f"{case.name}: {name}: {_summary(found[name])}")
            self.save()
        able = [name for name in found if not _failed(found[name])]
        counted = {name: self._peers[name].cpu_seconds() for name in able}
        for place in range(rounds):
            # Each round starts with another peer, so that the order of peers changes.
            for name in able[place % len(able) :] + able[: place % len(able)] if able else []:
                self._measure_once(name, case, found[name], repeats, counted)
            self.save()
            self._log(f"{case.name}: round {place + 1} of {rounds}: {_last(found, able)}")
        for name in able:
            if not _failed(found[name]):
                self._try(name, {"release": asdict(case)})

    def _measure_once(
        self, name: str, case: Case, facts: dict[str, Any], repeats: int, counted: dict[str, float]
    ) -> None:
        if _failed(facts):
            return
        others = [peer for other, peer in self._peers.items() if other != name]
        waiting = sum(peer.cpu_seconds() for peer in others)
        answer = self._try(name, {"measure": asdict(case), "repeats": repeats})
        if _failed(answer):
            facts.update(answer)
            return
        facts.setdefault("rounds", []).append(answer["seconds"])
        before, counted[name] = counted[name], self._peers[name].cpu_seconds()
        facts.setdefault("cpu", []).append(counted[name] - before)
        facts.setdefault("idle", []).append(sum(peer.cpu_seconds() for peer in others) - waiting)

    def _try(self, name: str, request: Mapping[str, Any]) -> Answer:
        try:
            return self.ask(name, request)
        except Lost as reason:
            return {"error": str(reason)}

    def save(self) -> None:
        """Write the results atomically."""
        self.results["saved"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        draft = self._out.with_suffix(".part")
        draft.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, self._out)


@contextlib.contextmanager
def stopping(signals: Sequence[int]) -> Iterator[None]:
    """Make the signals raise KeyboardInterrupt, like Ctrl-C."""
    import signal

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _failed(answer: Mapping[str, Any]) -> bool:
    return "error" in answer or "unsupported" in answer


def _summary(facts: Mapping[str, Any]) -> str:
    if _failed(facts):
        return str(facts.get("unsupported") or facts["error"])
    parameters = f"{facts['parameters']:,} parameters, " if "parameters" in facts else ""
    return f"{parameters}{facts['tokens']:,} tokens per run, first run finished after {facts['first_seconds']:.2f} s"


def _last(found: Mapping[str, Mapping[str, Any]], able: Sequence[str]) -> str:
    shown = [f"{name} {min(found[name]['rounds'][-1]):.3f} s" for name in able if found[name].get("rounds")]
    return ", ".join(shown)
