"""What the harness and a peer say to each other: a JSON object a line, on the peer's standard input and output.

    {"versions": null}                -> {"jax": "0.10.2", ...}
    {"prepare": CASE}                 -> {"tokens": 5120, "parameters": 20123456, "first_seconds": 5.2, ...}
    {"measure": CASE, "repeats": 3}   -> {"seconds": [0.41, 0.40, 0.41]}
    {"release": CASE}                 -> {}

A request's first key is the command, its value the command's subject, the other keys its options. CASE is `cases.Case` as JSON. An answer may instead be
{"unsupported": "why"}, where the peer has no such thing, or {"error": "one line", "trace": "..."}.

Nothing but the standard library: a peer's environment has none of ours.
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
    """What a peer does not have; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A case that is ready to run.

    run:    does the work once, and returns when it is done.
    tokens: that one run works through: inputs and targets that are no padding, or tokens generated.
    facts:  whatever else is to be kept with the result (number of parameters, FLOPs, attention's implementation).
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

    more: further commands by name, each called with the request's subject and options.

    `first_seconds` of "prepare" is from nothing to the end of the first run, compilation included; a second run follows before anything is measured.

    What libraries print goes to standard error: the descriptor of standard output is kept for answers.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # An end to what was printed before, while libraries were imported.
    print(file=answers, flush=True)
    ready: dict[Case, Prepared] = {}

    def prepared(subject: Mapping[str, Any]) -> Answer:
        case = Case(**subject)
        began = time.perf_counter()
        ready[case] = made = prepare(case)
        made.run()
        first = time.perf_counter() - began
        made.run()
        return {"tokens": made.tokens, "first_seconds": first, **made.facts}

    def measure(subject: Mapping[str, Any], *, repeats: int) -> Answer:
        run, seconds = ready[Case(**subject)].run, []
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
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
