"""Targets that a vocabulary does not give back: no prediction can equal them, however good the model is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import seqio

from t2t.data.config import Data
from t2t.data.evaluation import evaluation_batches
from t2t.data.registry import find, task_vocabulary, tasks_of
from t2t.errors import UserError
from t2t.nn.model import Kind
from t2t.vocabularies import Bytes, Vocabulary


@dataclass(frozen=True, kw_only=True)
class Lost:
    """count: how many of `looked_at` targets come back as other texts. text, back: the first of them, before and after."""

    count: int
    looked_at: int
    text: str
    back: str

    def message(self, task: str) -> str:
        """Return it in a line."""
        place = next((i for i, (a, b) in enumerate(zip(self.text, self.back, strict=False)) if a != b), None)
        place = min(len(self.text), len(self.back)) if place is None else place
        before, after = (repr(text[max(0, place - 20) : place + 20]) for text in (self.text, self.back))
        return (
            f"task {task}: {self.count} of {self.looked_at} targets do not survive the vocabulary, so that no prediction can equal them:"
            f" the first has {before}, of which the vocabulary makes {after}"
        )


def lost(texts: Iterable[str], vocabulary: Vocabulary) -> Lost | None:
    """Return which texts do not come back from their ids; None where all do."""
    count = looked_at = 0
    first: tuple[str, str] | None = None
    if isinstance(vocabulary, Bytes):  # gives any text back
        return None
    for text in texts:
        looked_at += 1
        back = vocabulary.decode(vocabulary.encode(text))
        if back != text:
            count += 1
            first = first or (text, back)
    return None if first is None else Lost(count=count, looked_at=looked_at, text=first[0], back=first[1])


def compares(task: seqio.Task) -> bool:
    """Whether a metric of the task compares predictions with the targets' texts."""
    return bool(task.predict_metric_fns or task.predict_with_aux_metric_fns)


def lost_of(data: Data, kind: Kind, *, examples: int = 100) -> list[str]:
    """Return a line for each task of `data` whose first targets do not all survive, of those whose metrics compare texts.

    Raises UserError for what the source finds wrong.
    """
    try:
        vocabulary = task_vocabulary(data)
    except UserError:  # ids without text
        return []
    if kind == "encoder" or isinstance(vocabulary, Bytes):
        return []
    lines = []
    for task in tasks_of(find(data.task), data.split):
        if not compares(task):
            continue
        read = evaluation_batches(replace(data, task=task.name), kind, 32, examples=examples)
        texts = [
            raw["targets_pretokenized"].decode("utf-8", errors="replace")
            for _, raws in read
            for raw in raws
            if isinstance(raw.get("targets_pretokenized"), bytes)
        ]
        if found := lost(texts, vocabulary):
            lines.append(found.message(task.name))
    return lines
