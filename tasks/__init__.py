"""Registry of tasks, installed as `t2t.tasks`. Importing it registers the built-in tasks."""

if __name__ != "t2t.tasks":
    raise ImportError("import t2t.tasks instead of tasks: a second copy of the package would register every task twice")

from t2t.tasks import (
    documentation,
    documentation_objectives,
    generated,
    generated_answers,
    multitask,
    quickstart,
    recall,
    t5,
)
from t2t.tasks.answering import add_classification, add_regression, add_span_extraction, add_tagging
from t2t.tasks.chat import add_chat
from t2t.tasks.mixing import mix
from t2t.tasks.preferences import add_preferences
from t2t.tasks.prompts import add_prompted, check_held_out
from t2t.tasks.recall import add_recall
from t2t.tasks.register import add, describe, find, names
from t2t.tasks.templates import Template
from t2t.tasks.ul2 import mixture_of_denoisers
from t2t.tasks.vectors import add_retrieval, add_similarity
from t2t.tasks.windows import add_character_windows

__all__ = [
    "Template",
    "add",
    "add_character_windows",
    "add_chat",
    "add_classification",
    "add_preferences",
    "add_prompted",
    "add_recall",
    "add_regression",
    "add_retrieval",
    "add_similarity",
    "add_span_extraction",
    "add_tagging",
    "check_held_out",
    "describe",
    "documentation",
    "documentation_objectives",
    "find",
    "generated",
    "generated_answers",
    "mix",
    "mixture_of_denoisers",
    "multitask",
    "names",
    "quickstart",
    "recall",
    "t5",
]
