"""What `import t2t` offers, and what the command line calls: training, runs, recipes and the user's own code."""
