"""`t2t grid`: compare architectures and objectives by training them side by side."""

from t2t.launch.grid.comparison import Comparison
from t2t.launch.grid.design import Cell, Claim, Grid, Measure

__all__ = ["Cell", "Claim", "Comparison", "Grid", "Measure"]
