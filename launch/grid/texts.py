"""Tasks that a grid registers itself, because they depend on its options."""

from __future__ import annotations

from dataclasses import dataclass

from t2t.launch.grid.design import GridTask
from t2t.limits import Count, Length
from t2t.paths import LocalPath


@dataclass(frozen=True, kw_only=True)
class CharacterText(GridTask):
    """The characters of a text file in windows (`t2t.tasks.add_character_windows`).

    file: the text. length: characters of a window.
    """

    file: LocalPath
    length: Length

    def register(self) -> None:
        """Register the task. Raises UserError if the file cannot be read."""
        from t2t import tasks
        from t2t.tasks.sources.windows import text_of

        tasks.add_character_windows(self.task, text=text_of(self.file), length=self.length, replace=True)


@dataclass(frozen=True, kw_only=True)
class RecallText(GridTask):
    """Multi-query associative recall (`t2t.tasks.add_recall`).

    pairs: pairs of a key and a value. length: characters of a text.
    """

    pairs: Count
    length: Length

    def register(self) -> None:
        """Register the task."""
        from t2t import tasks

        tasks.add_recall(self.task, pairs=self.pairs, length=self.length, replace=True)
