"""The Python API behind `import t2t` and the command line: training, runs, recipes and user code."""
