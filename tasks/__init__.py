"""Installed as `t2t.tasks`."""

if __name__ != "t2t.tasks":
    raise ImportError("import t2t.tasks, not tasks: a second copy of the package would register everything twice")
