"""Register tasks for vectors of texts: retrieval, which also trains them, and similarity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import seqio

from t2t.data.texts import in_segments
from t2t.errors import UserError
from t2t.tasks import metrics as known
from t2t.tasks.formatting import Text
from t2t.tasks.objectives import separate_texts, texts_features
from t2t.tasks.register import add
from t2t.vocabularies import Vocabulary

Metrics = Sequence[Callable[..., Mapping[str, Any]]]


def add_retrieval(
    name: str,
    *,
    source: seqio.DataSource,
    query: Text,
    positive: Text,
    negatives: str | None = None,
    max_negatives: int = 1,
    query_prefix: str = "",
    text_prefix: str = "",
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of queries with a text that answers each, for `t2t.objectives.Contrastive` and for evaluation.

    The evaluation compares each query with all texts of the evaluated examples: "retrieval_accuracy" is the share of queries whose positive is the
    most similar text, "mrr" the mean of 1 / rank of the positive (mean reciprocal rank).

    Args:
      query, positive: the two texts: a field, a format string or a function, as in `add`.
      negatives: the field of the hard negatives, texts that look relevant but are not: a text or a vector of texts.
      max_negatives: number of hard negatives of an example to use, from the first. The objective must compare as many (`negatives`).
      query_prefix: text to prepend to the query ("query: ").
      text_prefix: text to prepend to the positive and the negatives ("passage: ").

    Other arguments and errors are those of `add`. Raises UserError also if `max_negatives` is less than 1.
    """
    if max_negatives < 1:
        raise UserError(f"max_negatives={max_negatives} of task {name!r}: must be at least 1. Nearest: 1.")
    used = 0 if negatives is None else max_negatives
    return add(
        name,
        source=source,
        inputs=query,
        targets=positive,
        prefix=query_prefix,
        vocabulary=vocabulary,
        objective=partial(separate_texts, prefix=text_prefix, negatives=negatives, max_negatives=used),
        features=texts_features,
        converter=in_segments,
        keep=[*keep, *([negatives] if negatives is not None else [])],
        replace=replace,
    )


def add_similarity(
    name: str,
    *,
    source: seqio.DataSource,
    first: Text,
    second: Text,
    score: Text,
    prefix: str = "",
    metrics: Metrics = (known.spearman, known.pearson),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of pairs of texts with a score of their similarity (STS benchmarks), for evaluation.

    The prediction is the cosine of the vectors of the two texts.

    Args:
      first, second: the texts: a field, a format string or a function, as in `add`.
      score: the field of the score, a number.
      prefix: text to prepend to both texts.

    Other arguments and errors are those of `add`.
    """
    return add(
        name,
        source=source,
        inputs=first,
        second=second,
        targets=score,
        prefix=prefix,
        metrics=metrics,
        vocabulary=vocabulary,
        objective=partial(separate_texts, prefix=prefix),
        features=texts_features,
        converter=in_segments,
        keep=keep,
        replace=replace,
    )
