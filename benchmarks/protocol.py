"""Protocol between the harness and a peer: one JSON object per line, on the peer's standard input and output.

    {"versions": null}                -> {"jax": "0.10.2", ...}
    {"prepare": CASE}                 -> {"tokens": 5120, "parameters": 20123456, "first_seconds": 5.2, ...}
    {"measure": CASE, "repeats": 3}   -> {"seconds": [0.41, 0.40, 0.41]}
    {"release": CASE}                 -> {}

The first key of a request is the command, its value is the subject of the command, and the other keys are options. CASE is `cases.Case` as JSON.
Instead, an answer can be {"unsupported": "why"} if the peer does not support the case, or {"error": "one line", "trace": "..."}.

This module only uses the standard library, because a peer's environment does not have our dependencies.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import Case

Answer = dict[str, Any]


class Unsupported(Exception):
    """Raised if a peer does not support a case. The message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A case that is ready to run.

    run:    do the work once, and return when it is finished.
    tokens: tokens of one run: inputs and targets without padding, or generated tokens.
    facts:  other values to store with the result (number of parameters, FLOPs, attention implementation).
    """

    run: Callable[[], object]
    tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)


def serve(
    prepare: Callable[[Case], Prepared],
    versions: Callable[[], Mapping[str, str]],
    more: Mapping[str, Callable[..., Answer]] | None = None,
) -> None:
    """Answer requests until standard input ends.

    more: additional commands by name, each called with the request's subject and options.

    `first_seconds` of "prepare" is the time to prepare the case and finish the first run, compilation included. A second warm-up run follows.

    The output of libraries goes to standard error. Standard output is for answers only.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # End the line that libraries may have printed during import.
    print(file=answers, flush=True)
    ready: dict[Case, Prepared] = {}

    def prepared(subject: Mapping[str, Any]) -> Answer:
        case = Case(**subject)
        start = time.perf_counter()
        ready[case] = work = prepare(case)
        work.run()
        first = time.perf_counter() - start
        work.run()
        return {"tokens": work.tokens, "first_seconds": first, **work.facts}

    def measure(subject: Mapping[str, Any], *, repeats: int) -> Answer:
        run, seconds = ready[Case(**subject)].run, []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return {"seconds": seconds}

    def release(subject: Mapping[str, Any]) -> Answer:
        ready.pop(Case(**subject), None)
        return {}

    commands: dict[str, Callable[..., Any]] = {
        "versions": lambda _: dict(versions()),
        "prepare": prepared,
        "measure": measure,
        "release": release,
        **(more or {}),
    }
    for line in sys.stdin:
        print(json.dumps(_answer(commands, json.loads(line))), file=answers, flush=True)


def _answer(commands: Mapping[str, Callable[..., Answer]], request: dict[str, Any]) -> Answer:
    name = next(iter(request))
    try:
        return commands[name](request.pop(name), **request)
    except Unsupported as reason:
        return {"unsupported": str(reason)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}".splitlines()[0], "trace": traceback.format_exc()}
