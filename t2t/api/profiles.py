"""Summarise a trace in RUN/profile: which operations took the time of the devices, and their places in the model."""

from __future__ import annotations

import gzip
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from t2t.plan.hlo import HloModule, Instruction
from t2t.train.profile import DIRECTORY, PROGRAM

Kind = Literal["matmul", "elementwise", "look-up", "copy", "collective", "other"]

_MATMUL = ("dot", "convolution", "ragged-dot")
_COLLECTIVE = re.compile(r"all-reduce|all-gather|reduce-scatter|all-to-all|collective|^send|^recv|partition-id")
_COPY = re.compile(r"^(copy|transpose|reshape|bitcast|slice|concatenate|pad|tuple|get-tuple|infeed|outfeed)")
_LOOK_UP = ("gather", "scatter", "dynamic-slice", "dynamic-update-slice", "sort", "top-k")
_LIBRARY = re.compile(r"gemm|matmul|cublas|dot|conv|attention|mha|flash|splash", re.I)
_CONTROL = ("while", "conditional", "call", "async-start", "async-done", "async-update", "parameter", "constant")
"""Instructions whose time is the time of other instructions."""
_PARTS = re.compile(
    r"^(while|body|cond|closed_call|checkpoint|remat\w*|rematted_computation|core_call|custom_[jv][vj]p_call\w*|pjit|shard_map|branch_\d+_fun)$"
)
_WRAPPED = re.compile(
    r"^(jit|pjit|jvp|vjp|vmap|transpose|remat\w*|checkpoint|custom_jvp|custom_vjp|shard_map|named)\((.*)\)$"
)


@dataclass(frozen=True, kw_only=True)
class Operations:
    """Operations of one kind at one place.

    place:   place in the model: "decoder/mlp", "decoder/mlp, backward"; "(elsewhere)" if unknown.
    share:   fraction of the devices' time, including idle time.
    seconds: seconds per step, summed over all threads or streams.
    count:   runs per step.
    largest: name of the slowest operation in the compiled program.
    """

    place: str
    kind: Kind
    share: float
    seconds: float
    count: float
    largest: str


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Summary of a trace.

    steps:  the first and the last traced step.
    wall:   seconds per step, from the start of the first operation to the end of the last.
    idle:   fraction of this time in which no operation ran.
    rows:   operations by place and kind, with the largest share first.
    kinds:  kind -> share.
    path:   the directory to open in TensorBoard.
    """

    steps: tuple[int, int]
    wall: float
    idle: float
    rows: tuple[Operations, ...]
    kinds: dict[str, float]
    path: Path


@dataclass(frozen=True)
class _Event:
    name: str
    begin: float
    end: float


def newest(run: Path) -> Path | None:
    """Return the file of the newest trace in a run directory, or None if there is no trace."""
    found = list((run / DIRECTORY).glob("steps_*/plugins/profile/*/*.xplane.pb"))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def read(run: Path) -> Profile | None:
    """Return the summary of a run's newest trace. None if there is no trace, or if it has no operation of the step."""
    path = newest(run)
    if path is None:
        return None
    from jax.profiler import ProfileData

    directory = path.parents[3]
    first, last = (int(number) for number in directory.name.split("_")[1:])
    program = directory / PROGRAM
    text = gzip.decompress(program.read_bytes()).decode("utf-8") if program.exists() else ""
    lines = list(_operations(ProfileData.from_file(str(path)).planes))
    return add_up(lines, instructions(text), steps=(first, last), path=directory)


def instructions(text: str) -> dict[str, tuple[Kind, str]]:
    """Return instruction -> (kind, place) for the text of a compiled program, without control flow."""
    hlo = HloModule(text)
    found: dict[str, tuple[Kind, str]] = {}
    for computation in hlo.computations.values():
        for instruction in computation:
            if instruction.opcode not in _CONTROL:
                inside = hlo.computations.get(instruction.attribute("calls") or "", [])
                found[instruction.name] = (_kind(instruction, inside), place_of(instruction.source or _source(inside)))
    return found


def place_of(source: str) -> str:
    """Return the scopes in the JAX name of an operation, without transformations and loops.

    "jit(step)/transpose(jvp(decoder))/while/body/mlp/dot_general" is "decoder/mlp, backward".
    """
    scopes: list[str] = []
    backward = "transpose(" in source
    for part in source.split("/")[:-1]:  # the last is the operation itself
        while (wrapped := _WRAPPED.match(part)) is not None:
            part = "" if wrapped[1] in ("jit", "pjit") else wrapped[2]
        if part and not _PARTS.match(part) and part.isidentifier():
            scopes.append(part)
    place = "/".join(scopes) or "(elsewhere)"
    return f"{place}, backward" if backward else place


def _source(inside: Iterable[Instruction]) -> str:
    return next((item.source for item in inside if item.source), "")


def _kind(instruction: Instruction, inside: list[Instruction]) -> Kind:
    opcodes = [instruction.opcode, *(item.opcode for item in inside)]
    if any(opcode in _MATMUL for opcode in opcodes):
        return "matmul"
    if any(_COLLECTIVE.search(opcode) for opcode in opcodes):
        return "collective"
    if "custom-call" in opcodes:
        return "matmul" if _LIBRARY.search(instruction.rest) else "other"
    if any(opcode in _LOOK_UP for opcode in opcodes):
        return "look-up"
    computing = [opcode for opcode in opcodes if opcode not in ("fusion", "parameter", "constant")]
    return "copy" if all(_COPY.match(opcode) for opcode in computing) else "elementwise"


def _operations(planes: Any) -> Iterator[list[_Event]]:
    """Yield the operations of each thread (CPU), stream (GPU) or core (TPU)."""
    for plane in planes:
        for line in plane.lines:
            events = []
            whole = plane.name.startswith("/device:") and line.name == "XLA Ops"
            for event in line.events:
                operation = next((str(value) for key, value in event.stats if key == "hlo_op"), None)
                if operation is None and whole:
                    operation = event.name.partition(" = ")[0].lstrip("%")
                if operation is not None:
                    events.append(_Event(operation, event.start_ns, event.start_ns + event.duration_ns))
            if events:
                yield events


def add_up(
    lines: list[list[_Event]], known: dict[str, tuple[Kind, str]], *, steps: tuple[int, int], path: Path
) -> Profile | None:
    """Return the summary of the operations of all lines, or None without operations. `known`: the result of `instructions`."""
    begin = min((event.begin for line in lines for event in line), default=0.0)
    end = max((event.end for line in lines for event in line), default=0.0)
    if end <= begin:
        return None
    groups: dict[tuple[str, Kind], dict[str, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    spans: list[tuple[float, float]] = []
    for line in lines:
        for event, seconds in _self_times(line):
            kind, place = known.get(event.name, ("other", "(elsewhere)"))
            if event.name in known:
                spans.append((event.begin, event.end))
            elif _control(event.name):
                continue
            entry = groups[place, kind][event.name]
            entry[0] += seconds
            entry[1] += 1
    busy, total = _union(spans), sum(entry[0] for group in groups.values() for entry in group.values())
    count = steps[1] - steps[0] + 1
    share = min(busy / (end - begin), 1.0) / max(total, 1e-9)
    rows = [
        Operations(
            place=place,
            kind=kind,
            share=sum(entry[0] for entry in group.values()) * share,
            seconds=sum(entry[0] for entry in group.values()) / count / 1e9,
            count=sum(entry[1] for entry in group.values()) / count,
            largest=max(group, key=lambda name: group[name][0]),
        )
        for (place, kind), group in groups.items()
    ]
    kinds: dict[str, float] = defaultdict(float)
    for row in rows:
        kinds[row.kind] += row.share
    return Profile(
        steps=steps,
        wall=(end - begin) / count / 1e9,
        idle=max(0.0, 1.0 - busy / (end - begin)),
        rows=tuple(sorted(rows, key=lambda row: -row.share)),
        kinds=dict(sorted(kinds.items(), key=lambda item: -item[1])),
        path=path,
    )


def _control(name: str) -> bool:
    return name.rpartition(".")[0] in _CONTROL or name in _CONTROL


def _self_times(line: list[_Event]) -> Iterator[tuple[_Event, float]]:
    """Yield each event with its self time: its duration without the events inside it, such as the body of a loop."""
    inside: list[tuple[_Event, float]] = []
    for event in sorted(line, key=lambda event: (event.begin, -event.end)):
        while inside and inside[-1][0].end <= event.begin:
            done, children = inside.pop()
            yield done, max(0.0, done.end - done.begin - children)
        if inside:
            inside[-1] = (inside[-1][0], inside[-1][1] + event.end - event.begin)
        inside.append((event, 0.0))
    for done, children in reversed(inside):
        yield done, max(0.0, done.end - done.begin - children)


def _union(spans: list[tuple[float, float]]) -> float:
    """Return the total length of the union of the spans."""
    covered, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        covered += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return covered
