"""Find targets that change when they are encoded and decoded. No prediction can equal such a target."""

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
    """Targets that change when they are encoded and decoded.

    count:     number of changed targets.
    looked_at: number of targets checked.
    text:      the first changed target.
    back:      the same target after encoding and decoding.
    """

    count: int
    looked_at: int
    text: str
    back: str

    def message(self, task: str) -> str:
        """Return a one-line message."""
        place = next((i for i, (a, b) in enumerate(zip(self.text, self.back, strict=False)) if a != b), None)
        place = min(len(self.text), len(self.back)) if place is None else place
        before, after = (repr(text[max(0, place - 20) : place + 20]) for text in (self.text, self.back))
        return (
            f"task {task}: {self.count} of {self.looked_at} targets do not survive the vocabulary, so no prediction can equal them:"
            f" the first contains {before}, which decodes as {after}"
        )


def lost(texts: Iterable[str], vocabulary: Vocabulary) -> Lost | None:
    """Return which texts change when they are encoded and decoded, or None if none does."""
    count = looked_at = 0
    first: tuple[str, str] | None = None
    if isinstance(vocabulary, Bytes):  # changes no text
        return None
    for text in texts:
        looked_at += 1
        back = vocabulary.decode(vocabulary.of_targets.encode(text))
        if back != text:
            count += 1
            first = first or (text, back)
    return None if first is None else Lost(count=count, looked_at=looked_at, text=first[0], back=first[1])


def compares(task: seqio.Task) -> bool:
    """Return whether a metric of the task compares predictions with the texts of the targets."""
    return bool(task.predict_metric_fns or task.predict_with_aux_metric_fns)


def lost_of(data: Data, kind: Kind, *, examples: int = 100) -> list[str]:
    """Return a message for each task of `data` whose metrics compare texts and whose first targets do not all survive the vocabulary.

    Raises:
      UserError: the source reports an error.
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
