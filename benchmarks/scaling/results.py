"""Results on disk: whole after every point."""

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
        """Read what is there. Raises UserError where the file is none of ours."""
        self.path = path
        self._points: dict[str, dict[str, Any]] = {}
        self._machine: Mapping[str, Any] = {}
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                self._points, self._machine = found["points"], found["machine"]
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{path} (--out) is no result of this benchmark. Give another --out.") from None

    def has(self, name: str, point: Point) -> bool:
        """Whether the point was measured with these arguments."""
        return name in self._points and self._points[name]["arguments"] == json.loads(json.dumps(point.arguments))

    def add(self, name: str, point: Point, values: Values, machine: Mapping[str, Any]) -> None:
        """Keep a point, on disk."""
        self._points[name] = {"arguments": dict(point.arguments), "values": values}
        self._machine = machine
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with writing(partial):
            partial.write_text(json.dumps({"points": self._points, "machine": machine}, indent=1) + "\n", "utf-8")
        partial.replace(self.path)

    def rows(self, order: Mapping[str, Point]) -> Rows:
        """Return what is known of the points, in their order."""
        return {name: self._points[name]["values"] for name, point in order.items() if self.has(name, point)}
