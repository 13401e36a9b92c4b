"""Peers measured in turns: a round asks each of them once, one computes while the others wait, and what is known is on the disk at any time."""

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
    """Processes that wait, and the results so far.

    results: {"peers": {PEER: {"versions": ...}}, "cases": [{"name", "case", "peers": {PEER: facts, "rounds", "cpu", "idle" or "error"}}], ...}.
    `rounds` has a list of seconds a round; `cpu` the processor seconds since the peer's last turn, what it made ahead in the others' turns with them;
    `idle` those that the other peers took meanwhile.
    """

    def __init__(
        self,
        commands: Mapping[str, Sequence[str]],
        out: Path,
        *,
        threads: int = 2,
        limit: float = 600.0,
        say: Callable[[str], None] = print,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self._commands, self._out, self._threads, self._limit, self._say = commands, out, threads, limit, say
        self._peers: dict[str, Peer] = {}
        self.results: dict[str, Any] = {**(facts or {}), "peers": {name: {} for name in commands}, "cases": []}

    def __enter__(self) -> Session:
        for name in self._commands:
            with contextlib.suppress(Lost):
                self.results["peers"][name]["versions"] = self.ask(name, {"versions": None})
                self._say(f"{name}: {json.dumps(self.results['peers'][name]['versions'])}")
        return self

    def __exit__(self, *unused: object) -> None:
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def ask(self, name: str, request: Mapping[str, Any]) -> Answer:
        """Return a peer's answer; starts it where it is not running. Raises Lost."""
        if name not in self._peers:
            log = self._out.with_suffix(f".{name}.log")
            self._peers[name] = Peer(name, self._commands[name], log=log, threads=self._threads)
        try:
            return self._peers[name].ask(request, limit=self._limit)
        except Lost:
            del self._peers[name]
            raise

    def measure(self, case: Case, *, rounds: int, repeats: int) -> None:
        """Measure a case in all peers that have it, each `repeats` times a round, and save after each round."""
        found: dict[str, dict[str, Any]] = {}
        self.results["cases"].append({"name": case.name, "case": asdict(case), "peers": found})
        for name in self._commands:
            found[name] = self._asked(name, case, {"prepare": asdict(case)})
            self._say(f"{case.name}: {name}: {_said(found[name])}")
            self.save()
        able = [name for name in found if not _failed(found[name])]
        counted = {name: self._peers[name].cpu_seconds() for name in able}
        for place in range(rounds):
            # Another one begins each round, so that none always follows the same.
            for name in able[place % len(able) :] + able[: place % len(able)] if able else []:
                self._measure_once(name, case, found[name], repeats, counted)
            self.save()
            self._say(f"{case.name}: round {place + 1} of {rounds}: {_last(found, able)}")
        for name in able:
            if not _failed(found[name]):
                self._asked(name, case, {"release": asdict(case)})

    def _measure_once(
        self, name: str, case: Case, facts: dict[str, Any], repeats: int, counted: dict[str, float]
    ) -> None:
        if _failed(facts):
            return
        others = [peer for other, peer in self._peers.items() if other != name]
        waiting = sum(peer.cpu_seconds() for peer in others)
        answer = self._asked(name, case, {"measure": asdict(case), "repeats": repeats})
        if _failed(answer):
            facts.update(answer)
            return
        facts.setdefault("rounds", []).append(answer["seconds"])
        before, counted[name] = counted[name], self._peers[name].cpu_seconds()
        facts.setdefault("cpu", []).append(counted[name] - before)
        facts.setdefault("idle", []).append(sum(peer.cpu_seconds() for peer in others) - waiting)

    def _asked(self, name: str, case: Case, request: Mapping[str, Any]) -> Answer:
        try:
            return self.ask(name, request)
        except Lost as reason:
            return {"error": str(reason)}

    def save(self) -> None:
        """Write the results whole, or not at all."""
        self.results["saved"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        draft = self._out.with_suffix(".part")
        draft.write_text(json.dumps(self.results, indent=1) + "\n", encoding="utf-8")
        os.replace(draft, self._out)


@contextlib.contextmanager
def stopping(signals: Sequence[int]) -> Iterator[None]:
    """Make signals interrupt what runs as Ctrl-C does."""
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


def _said(facts: Mapping[str, Any]) -> str:
    if _failed(facts):
        return str(facts.get("unsupported") or facts["error"])
    parameters = f"{facts['parameters']:,} parameters, " if "parameters" in facts else ""
    return f"{parameters}{facts['tokens']:,} tokens a run, first run done after {facts['first_seconds']:.2f} s"


def _last(found: Mapping[str, Mapping[str, Any]], able: Sequence[str]) -> str:
    shown = [f"{name} {min(found[name]['rounds'][-1]):.3f} s" for name in able if found[name].get("rounds")]
    return ", ".join(shown)
