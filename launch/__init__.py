"""Installed as `t2t.launch`."""

if __name__ != "t2t.launch":
    raise ImportError("import t2t.launch, not launch: a second copy of the package would register everything twice")
