"""Side by side with T5X, transformers and MaxText: the same work in one session on one machine. See README.md; not installed with the package."""
