"""`t2t grid`: compare architectures and objectives by training them side by side."""

from t2t.launch.grid.comparison import Comparison
from t2t.launch.grid.design import Cell, Claim, Design, Grid, Measure
from t2t.launch.grid.mixers import Mixers

__all__ = ["Cell", "Claim", "Comparison", "Design", "Grid", "Measure", "Mixers"]
