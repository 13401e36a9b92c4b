"""Installed as `t2t.tasks`: the registry of tasks, and the tasks that come with the stack, registered on import."""

if __name__ != "t2t.tasks":
    raise ImportError("import t2t.tasks, not tasks: a second copy of the package would register everything twice")

from t2t.tasks import documentation, generated, quickstart, t5
from t2t.tasks.mixing import mix
from t2t.tasks.register import add, describe, find, names

__all__ = ["add", "describe", "documentation", "find", "generated", "mix", "names", "quickstart", "t5"]
