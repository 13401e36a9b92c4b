"""Several processes as one program: how they find each other, check that they agree, and end together."""
