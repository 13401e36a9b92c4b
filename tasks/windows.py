"""Register language modelling of the characters of one text, as in nanoGPT's `shakespeare_char`."""

from __future__ import annotations

import seqio

from t2t.tasks.register import add
from t2t.tasks.sources.windows import CharacterWindows
from t2t.vocabularies import Characters, Vocabulary


def add_character_windows(
    name: str,
    *,
    text: str,
    length: int = 64,
    held_out: float = 0.1,
    vocabulary: Vocabulary | None = None,
    replace: bool = False,
) -> seqio.Task:
    """Register a task that predicts the characters of a window of a text, for decoders, and return it.

    The first character of a window is the input, all others are the targets, so every prediction has at least one character before it.

    Args:
      name: name of the task.
      text: the whole text (`t2t.tasks.sources.windows.text_of` reads a file).
      length: characters of a window, at least 2: 1 for the inputs and the rest for the targets.
      held_out: share of the text for the split "validation", from its end.
      vocabulary: default: the characters of the text.
      replace: whether to replace an existing task of this name.

    Raises:
      UserError: the name is taken, or a split is shorter than a window.
    """
    return add(
        name,
        source=CharacterWindows(text, length=length, held_out=held_out),
        inputs="inputs",
        targets="targets",
        vocabulary=Characters.of(text) if vocabulary is None else vocabulary,
        objective=(),  # windows end anywhere, so they have no EOS
        replace=replace,
    )
