"""The grids that have a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from t2t.launch.grid.comparison import base, small
from t2t.launch.grid.design import Design
from t2t.launch.grid.mixers import mixers

GRIDS: Mapping[str, Callable[[], Design]] = {"small": small, "base": base, "mixers": mixers}
