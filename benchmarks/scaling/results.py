"""Results on disk, written atomically after each point."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.scaling.part import Point, Rows, Values
from t2t.errors import UserError, writing


class Results:
    """DIR/PART.json: {"points": {name: {"arguments", "values"}}, "machine"}."""

    def __init__(self, path: Path) -> None:
        """Read saved results. Raise UserError if the file is not a result file of this benchmark."""
        self.path = path
        self._points: dict[str, dict[str, Any]] = {}
        self._machine: Mapping[str, Any] = {}
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                self._points, self._machine = found["points"], found["machine"]
            except (ValueError, KeyError, TypeError):
                raise UserError(
                    f"{path} (--out) is not a result file of this benchmark. Choose another --out."
                ) from None

    def has(self, name: str, point: Point) -> bool:
        """Return whether the point was measured with the same arguments."""
        return name in self._points and self._points[name]["arguments"] == json.loads(json.dumps(point.arguments))

    def add(self, name: str, point: Point, values: Values, machine: Mapping[str, Any]) -> None:
        """Save the values of a point."""
        self._points[name] = {"arguments": dict(point.arguments), "values": values}
        self._machine = machine
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with writing(partial):
            partial.write_text(json.dumps({"points": self._points, "machine": machine}, indent=1) + "\n", "utf-8")
        partial.replace(self.path)

    def rows(self, order: Mapping[str, Point]) -> Rows:
        """Return the saved values of these points, in their order."""
        return {name: self._points[name]["values"] for name, point in order.items() if self.has(name, point)}
