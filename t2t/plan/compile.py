"""Ahead-of-time compilation of a step for devices that this machine does not have."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, cast

import jax

from t2t import standard_error
from t2t.plan.hlo import HloModule
from t2t.train.program import Program

_SIZE = r"([\d.]+)\s*([KMGT]?)i?B?"
_FORMS = (
    re.compile(rf"\({_SIZE}\) exceeds available \w+ \({_SIZE}\)"),
    re.compile(rf"[Uu]sed {_SIZE} of {_SIZE} hbm"),
)
_LOGGED = re.compile(r"^([WIE]\d{4} |WARNING: All log messages|[WIE]\d{8} |\s*$)")
_REPLICATED = re.compile(r"Involuntary full rematerialization.*? for HLO operation %\S+ = (\S+? [\w-]+)\(")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Compiled:
    """A compiled step.

    analysis:   `Compiled.memory_analysis()`, in bytes per device.
    replicated: arrays that the compiler could only reshard by gathering the full array on every device.
    seconds:    time to trace and compile.
    """

    hlo: HloModule
    analysis: Any
    replicated: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class OutOfMemory:
    """The compiler ran out of device memory.

    needed:    bytes that the compiler requested when it stopped, a lower bound of what a step needs; None if the message does not say.
    available: bytes of memory on a chip.
    message:   the compiler's message.
    """

    needed: float | None
    available: float | None
    message: str
    seconds: float


def compile_step(program: Program) -> Compiled | OutOfMemory:
    """Compile the training step from shapes, without data."""
    started = time.perf_counter()
    step = cast(jax.stages.Wrapped, program.step())
    lowered = step.lower(program.abstract_state(), program.abstract_batch())
    try:
        with standard_error.without(_LOGGED) as log:
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return out_of_memory(str(error), time.perf_counter() - started)
    replicated = tuple(dict.fromkeys(found[1] for line in log if (found := _REPLICATED.search(line))))
    seconds = time.perf_counter() - started
    return Compiled(HloModule(compiled.as_text() or ""), compiled.memory_analysis(), replicated, seconds)


def out_of_memory(message: str, seconds: float = 0.0) -> OutOfMemory:
    """Parse the sizes in the compiler's message."""
    line = " ".join(message.split())
    for form in _FORMS:
        found = form.search(line)
        if found:
            needed, available = (float(found[i]) * _UNITS[found[i + 1]] for i in (1, 3))
            return OutOfMemory(needed, available, line[:400], seconds)
    return OutOfMemory(None, None, line[:400], seconds)
