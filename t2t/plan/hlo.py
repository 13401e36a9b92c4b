"""The text of a compiled program (`Compiled.as_text()`): its computations, and how often each of them runs.

XLA promises no stable format. What is read here is what it has printed for years: a computation's name and an opening brace; then a line an instruction,
`%name = shape opcode(operands), attributes`.
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
_PLACE = re.compile(r"\bindex=(\d+)")
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([^\s,()]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Shape:
    """An array's type.

    fast: whether the compiler keeps it in memory nearer than the main one (a TPU's VMEM).
    """

    dtype: str
    sizes: tuple[int, ...]
    fast: bool = False

    @property
    def bytes(self) -> float:
        """Size without padding."""
        return math.prod(self.sizes) * _width(self.dtype)


@dataclass(frozen=True)
class Instruction:
    """One line.

    shapes:   of the result, the parts of a tuple one after the other.
    operands: names.
    rest:     what stands behind the operands; of a constant its value, of a parameter its number.
    """

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    operands: tuple[str, ...]
    rest: str
    root: bool = False

    @property
    def source(self) -> str:
        """Where in the traced program it comes from, as JAX names it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    def attribute(self, name: str) -> str | None:
        """Return a computation that the instruction names: `body`, `condition`, `calls`."""
        found = re.search(rf"\b{name}=%?([^\s,()]+)", self.rest)
        return found[1] if found else None


@dataclass(frozen=True)
class Region:
    """A computation that control reaches by itself: the entry, a loop's body, a branch.

    runs:         how often, in a step.
    trips:        how often each time that what is around it runs.
    source:       of the loop, as JAX names it.
    around:       the regions it is in, outermost first.
    instructions: its own and those of what it calls (fusions, asynchronous parts), but of no loop inside.
    """

    name: str
    runs: float
    trips: int
    source: str
    around: tuple[str, ...]
    instructions: tuple[tuple[str, Instruction], ...]


class HloModule:
    """A compiled program.

    unknown: loops whose number of rounds could not be read; they are taken to run once.
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
        """The entry and, behind it, all that control reaches from it."""
        return tuple(self._regions(self.entry, 1.0, 1, "", ()))

    def _regions(self, name: str, runs: float, trips: int, source: str, around: tuple[str, ...]) -> Iterator[Region]:
        own = list(self._reached(name, set()))
        yield Region(name, runs, trips, source, around, tuple(own))
        for _, instruction in own:
            if instruction.opcode == "while":
                body, rounds = instruction.attribute("body"), self._trips(instruction)
                if body is not None:
                    yield from self._regions(body, runs * rounds, rounds, instruction.source, (*around, name))
            elif instruction.opcode == "conditional":
                # One of them runs; which is not known. All are counted: what is sent is then no less than told.
                for branch in _branches(instruction):
                    yield from self._regions(branch, runs, 1, instruction.source, (*around, name))

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
        told = _TRIPS.search(loop.rest)
        if told:
            return int(told[1])
        # A scan's condition compares its counter, from 0, with the one constant there is.
        condition = self.computations.get(loop.attribute("condition") or "", [])
        limits = {item.rest for item in condition if item.opcode == "constant" and item.rest.isdigit()}
        if len(limits) == 1:
            return -(-int(limits.pop()) // self._pace(condition, loop.attribute("body") or ""))
        self.unknown += 1
        return 1

    def _pace(self, condition: list[Instruction], body: str) -> int:
        """Return by how much a round moves a loop's counter on: more than 1 where the compiler makes one round of several."""
        limit = next((item for item in condition if item.root and item.opcode == "compare"), None)
        by_name = {item.name: item for item in (*condition, *self.computations.get(body, []))}
        read = [by_name[name] for name in limit.operands if name in by_name] if limit else []
        places = [int(found[1]) for item in read if (found := _PLACE.search(item.rest))]
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
    """Return the text's lines; an instruction that goes on in further ones, as the attributes of kernels do, is one."""
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
    behind = inside.strip() if plain and inside.strip().isdigit() else tail[closing + 1 :]
    operands = () if plain else tuple(_NAME.findall(inside))
    return Instruction(head[2], opcode, shapes, operands, behind, bool(head[1]))


def _closing(text: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.start()
    return len(text) - 1


def _space(text: str) -> int:
    """Where a shape that is no tuple ends: layouts have no spaces in them."""
    found = text.find(" ")
    return len(text) if found < 0 else found


def _branches(instruction: Instruction) -> list[str]:
    listed = _BRANCHES.search(instruction.rest)
    if listed:
        return [name.strip().lstrip("%") for name in listed[1].split(",")]
    return [name for key in ("true_computation", "false_computation") if (name := instruction.attribute(key))]


def _width(dtype: str) -> float:
    """Bytes of one entry."""
    if dtype == "pred":
        return 1
    found = re.search(r"\d+", dtype)
    if found is None:
        return 0
    return int(found[0]) / 8
