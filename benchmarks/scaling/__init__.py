"""How cost grows with work: `python -m benchmarks.scaling PART --out DIR`.

Each part has points; each point is measured in a process of its own and kept in DIR/PART.json as soon as it is known, so that what was interrupted goes on.
A table goes to standard output and a picture to DIR/PART.png.
"""
