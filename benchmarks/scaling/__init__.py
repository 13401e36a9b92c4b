"""Measure how costs scale: `python -m benchmarks.scaling PART --out DIR`.

Each part has several points. Each point is measured in its own process and saved to DIR/PART.json immediately. If interrupted, run the same command
again to resume. The table is printed to standard output, and the plot is saved to DIR/PART.png.
"""
