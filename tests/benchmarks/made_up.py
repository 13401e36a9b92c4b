"""A peer of a few lines whose times are made up: `python -m tests.benchmarks.made_up NAME FACTOR LOG`."""

import os
import sys
import time
from pathlib import Path

from benchmarks.protocol import Prepared, Unsupported, serve

NAME, FACTOR, LOG = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
print("printed while a library is imported,", 7, end=" ", flush=True)


def note(what):
    with LOG.open("a") as file:
        file.write(f"{NAME} {what}\n")


def prepare(case):
    print("a library that prints")
    if case.model == "bert":
        raise Unsupported("no such network")
    if case.model == "llama" and NAME != "ours":
        raise ValueError("nothing\nworks")
    return Prepared(run=lambda: None, tokens=100, facts={"flops": 50.0, "parameters": 7})


def measure(case, *, repeats):
    if case["model"] == "gpt2" and NAME != "ours":
        os._exit(3)
    if case["model"] == "decoder" and NAME != "ours":
        time.sleep(60)
    note(case["model"])
    return {"seconds": [FACTOR * seconds for seconds in (1.0, 2.0, 30.0)[:repeats]]}


serve(prepare, lambda: {"made_up": "1.0"}, {"measure": measure})
