"""A small peer that returns fixed times: `python -m tests.benchmarks.made_up NAME FACTOR LOG`."""

import os
import sys
import threading
import time
from pathlib import Path

from benchmarks.protocol import Prepared, Unsupported, serve

NAME, FACTOR, LOG = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
print("printed while a library is imported,", 7, end=" ", flush=True)


def note(what):
    with LOG.open("a") as file:
        file.write(f"{NAME} {what}\n")


def noted(line):
    return LOG.read_text().splitlines().count(line) if LOG.exists() else 0


def work_in_the_turn_of_slow(model, before, seconds=0.5):
    while noted(f"slow {model}") == before:
        time.sleep(0.05)
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    note("worked")


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
    if NAME == "ahead":
        arguments = (case["model"], noted(f"slow {case['model']}"))
        threading.Thread(target=work_in_the_turn_of_slow, args=arguments, daemon=True).start()
    note(case["model"])
    while NAME == "slow" and noted("ahead worked") < noted(f"ahead {case['model']}"):
        time.sleep(0.05)
    return {"seconds": [FACTOR * seconds for seconds in (1.0, 2.0, 30.0)[:repeats]]}


serve(prepare, lambda: {"made_up": "1.0"}, {"measure": measure})
