"""Code of the user's own: importing it, keeping a copy in the run, and running the copy where the user trusts it."""
