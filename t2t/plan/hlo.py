"""Parser of compiled programs (`Compiled.as_text()`): the computations, and how often each one runs.

XLA does not guarantee a stable text format. This parser uses what has been stable for years: a computation starts with its name and an opening brace,
then each instruction is one line, `%name = shape opcode(operands), attributes`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_HEAD = re.compile(r"^(ENTRY )?%?([^\s(]+) \(.*\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([^\s=]+) = ")
_SHAPE = re.compile(r"([a-z][a-z0-9]*)\[([\d,<=?]*)\](\{[^}]*\})?")
_NAME = re.compile(r"%([^\s,(){}]+)")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{"?n"?:\s*"?(\d+)')
_INDEX = re.compile(r"\bindex=(\d+)")
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([^\s,()]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Shape:
    """Dtype and shape of an array.

    fast: whether the compiler places it in fast memory (VMEM of a TPU) instead of main memory.
    """

    dtype: str
    sizes: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        """Size in bytes, without padding."""
        return math.prod(self.sizes) * _width(self.dtype)


@dataclass(frozen=True)
class Instruction:
    """One HLO instruction.

    shapes:   shapes of the result; several if it is a tuple.
    operands: names of the operands.
    rest:     text after the operands; for a constant its value, for a parameter its number.
    root:     whether it is the result of its computation.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool = False

    @property
    def source(self) -> str:
        """JAX's name of the operation that it was compiled from (`op_name`)."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def attribute(self, name: str) -> str | None:
        """Return the computation named by an attribute, such as `body`, `condition` or `calls`."""
        found = re.search(rf"\b{name}=%?([^\s,()]+)", self.rest)
        return found[1] if found else None


@dataclass(frozen=True)
class Region:
    """The entry computation, a loop body or a branch.

    runs:         number of runs per step.
    trips:        number of runs per run of the enclosing region.
    source:       JAX's name of the loop.
    enclosing:    names of the enclosing regions, outermost first.
    instructions: its instructions and those of the computations that it calls (fusions, asynchronous parts), without inner loops and branches.
    """

    name: str
    runs: float
    trips: int
    source: str
    enclosing: tuple[str, ...]
    instructions: tuple[tuple[str, Instruction], ...]


class HloModule:
    """A parsed compiled program.

    unknown: number of loops whose iteration count could not be read. They count as one iteration.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, list[Instruction]] = {}
        self.entry = ""
        self.unknown = 0
        current: list[Instruction] | None = None
        for line in _lines(text):
            if line.startswith((" ", "\t")):
                if current is not None and (instruction := _instruction(line)) is not None:
                    current.append(instruction)
                continue
            head = _HEAD.match(line)
            if head:
                current = self.computations.setdefault(head[2], [])
                self.entry = head[2] if head[1] else self.entry
            elif line.rstrip() == "}":
                current = None
        if not self.entry and self.computations:
            self.entry = list(self.computations)[-1]

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """The entry region, followed by all loop bodies and branches that it reaches."""
        return tuple(self._regions(self.entry, 1.0, 1, "", ()))

    def _regions(self, name: str, runs: float, trips: int, source: str, outer: tuple[str, ...]) -> Iterator[Region]:
        reached = list(self._reached(name, set()))
        yield Region(name, runs, trips, source, outer, tuple(reached))
        for _, instruction in reached:
            if instruction.opcode == "while":
                body, rounds = instruction.attribute("body"), self._trips(instruction)
                if body is not None:
                    yield from self._regions(body, runs * rounds, rounds, instruction.source, (*outer, name))
            elif instruction.opcode == "conditional":
                # Only one branch runs, but which one is unknown. Count all of them, as an upper bound.
                for branch in _branches(instruction):
                    yield from self._regions(branch, runs, 1, instruction.source, (*outer, name))

    def _reached(self, name: str, seen: set[str]) -> Iterator[tuple[str, Instruction]]:
        if name in seen:
            return
        seen.add(name)
        for instruction in self.computations.get(name, ()):
            yield name, instruction
            if instruction.opcode not in ("while", "conditional"):
                for called in _CALLS.findall(instruction.rest):
                    yield from self._reached(called, seen)

    def _trips(self, loop: Instruction) -> int:
        known = _TRIPS.search(loop.rest)
        if known:
            return int(known[1])
        # The condition of a scan compares a counter that starts at 0 with the only constant.
        condition = self.computations.get(loop.attribute("condition") or "", [])
        limits = {item.rest for item in condition if item.opcode == "constant" and item.rest.isdigit()}
        if len(limits) == 1:
            return -(-int(limits.pop()) // self._increment(condition, loop.attribute("body") or ""))
        self.unknown += 1
        return 1

    def _increment(self, condition: list[Instruction], body: str) -> int:
        """Return the increment of a loop's counter per iteration: more than 1 if the compiler unrolled the loop."""
        limit = next((item for item in condition if item.root and item.opcode == "compare"), None)
        by_name = {item.name: item for item in (*condition, *self.computations.get(body, []))}
        read = [by_name[name] for name in limit.operands if name in by_name] if limit else []
        places = [int(found[1]) for item in read if (found := _INDEX.search(item.rest))]
        root = next((item for item in self.computations.get(body, []) if item.root and item.opcode == "tuple"), None)
        if len(places) != 1 or root is None or places[0] >= len(root.operands):
            return 1
        after = by_name.get(root.operands[places[0]])
        added = (
            [by_name[name].rest for name in after.operands if name in by_name]
            if after and after.opcode == "add"
            else []
        )
        steps = [int(text) for text in added if text.isdigit()]
        return steps[0] if len(steps) == 1 and steps[0] > 0 else 1


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of the text. Join an instruction that spans several lines, such as one with kernel attributes, into one."""
    held = ""
    for line in text.splitlines():
        if held and line and not line[0].isspace() and line.rstrip() != "}":
            held += line
            continue
        if held:
            yield held
        held = line if line.startswith((" ", "\t")) else ""
        if not held:
            yield line
    if held:
        yield held


def _instruction(line: str) -> Instruction | None:
    head = _LINE.match(line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else _space(rest)
    shape, tail = rest[:end], rest[end:].lstrip()
    opening = tail.find("(")
    if opening < 0:
        return None
    closing = _closing(tail, opening)
    opcode, inside = tail[:opening], tail[opening + 1 : closing]
    shapes = tuple(
        Shape(dtype, tuple(int(size) for size in re.findall(r"\d+", sizes)), "S(" in layout and "S(5)" not in layout)
        for dtype, sizes, layout in _SHAPE.findall(shape)
    )
    plain = opcode in ("constant", "parameter")
    attributes = inside.strip() if plain and inside.strip().isdigit() else tail[closing + 1 :]
    operands = () if plain else tuple(_NAME.findall(inside))
    return Instruction(head[2], opcode, shapes, operands, attributes, bool(head[1]))


def _closing(text: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.start()
    return len(text) - 1


def _space(text: str) -> int:
    """Return the end of a shape that is not a tuple: the first space, because layouts contain no spaces."""
    found = text.find(" ")
    return len(text) if found < 0 else found


def _branches(instruction: Instruction) -> list[str]:
    listed = _BRANCHES.search(instruction.rest)
    if listed:
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return [name for key in ("true_computation", "false_computation") if (name := instruction.attribute(key))]


def _width(dtype: str) -> float:
    """Return the bytes of one element."""
    if dtype == "pred":
        return 1
    found = re.search(r"\d+", dtype)
    if found is None:
        return 0
    return int(found[0]) / 8
