"""User code: import it, keep a copy in the run, and run the copy if the user trusts it."""
