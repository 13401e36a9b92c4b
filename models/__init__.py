"""Installed as `t2t.models`."""

if __name__ != "t2t.models":
    raise ImportError("import t2t.models, not models: a second copy of the package would register everything twice")
