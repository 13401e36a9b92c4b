"""Measure one point in this process: `python -m benchmarks.scaling.child MODULE ARGUMENTS FILE`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path


def main(module: str, arguments: str, file: str) -> None:
    """Call the `measure` function of a part and write its values and a description of the machine."""
    part = importlib.import_module(module).PART
    values = part.measure(**json.loads(arguments))
    from t2t.train.machine import machine

    Path(file).write_text(json.dumps({"values": values, "machine": machine()}), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
