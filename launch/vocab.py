"""`t2t vocab TASK --size N --out FILE`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import tyro

from t2t.api.quiet import register_tasks
from t2t.limits import Count, Ids
from t2t.paths import LocalPath, check_output


def vocab(
    task: Annotated[str, tyro.conf.Positional],
    *,
    size: Ids,
    out: LocalPath,
    kind: Literal["unigram", "bpe", "wordpiece"] = "unigram",
    split: str = "train",
    examples: Count = 200_000,
    lowercase: bool = True,
) -> None:
    """Train a vocabulary on a task's texts; `t2t train ... --vocabulary FILE` uses it.

    Args:
        task: a task or mixture.
        size: ids in all, 100 sentinels included.
        out: the file to write, spiece.model say, or vocab.txt for wordpiece.
        kind: unigram or bpe (SentencePiece), or wordpiece (BERT's).
        split: of the task.
        examples: texts of each task to read at most.
        lowercase: wordpiece only: lower the text and strip accents.
    """
    check_output(out, "--out")
    register_tasks()
    from t2t.tasks.vocabulary_training import train_vocabulary

    made = train_vocabulary(task, size=size, out=out, kind=kind, split=split, examples=examples, lowercase=lowercase)
    sample = "The quick brown fox jumps over the lazy dog."
    pieces = [made.decode([piece]) or "▁" for piece in made.encode(sample)]
    print(f"{out}: {made.size:,} ids; {sample!r} in {len(pieces)}: {' | '.join(pieces)}", file=sys.stderr)
