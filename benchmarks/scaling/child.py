"""Measures one point, in a process of its own: `python -m benchmarks.scaling.child MODULE ARGUMENTS FILE`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main(module: str, arguments: str, file: str) -> None:
    """Call a part's `measure` and write what it returns, with the machine it ran on."""
    part = importlib.import_module(module).PART
    values = part.measure(**json.loads(arguments))
    from t2t.train.machine import machine

    Path(file).write_text(json.dumps({"values": values, "machine": machine()}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
