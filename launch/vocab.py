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
    """Train a vocabulary on a task's texts. `t2t train ... --vocabulary FILE` uses it.

    Args:
        task: task or mixture.
        size: number of ids, including 100 sentinels.
        out: file to write, for example spiece.model, or vocab.txt for wordpiece.
        kind: unigram or bpe (SentencePiece), or wordpiece (as in BERT).
        split: split of the task to read.
        examples: maximum number of texts to read from each task.
        lowercase: wordpiece only: convert the text to lower case and strip accents.
    """
    check_output(out, "--out")
    register_tasks()
    from t2t.tasks.vocabulary_training import train_vocabulary

    trained = train_vocabulary(task, size=size, out=out, kind=kind, split=split, examples=examples, lowercase=lowercase)
    sample = "The quick brown fox jumps over the lazy dog."
    pieces = [trained.decode([piece]) or "▁" for piece in trained.encode(sample)]
    print(f"{out}: {trained.size:,} ids; {sample!r} in {len(pieces)}: {' | '.join(pieces)}", file=sys.stderr)
