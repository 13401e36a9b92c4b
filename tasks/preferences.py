"""Register tasks of preferences: inputs with a preferred and a rejected answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from t2t.data.preference_pairs import REJECTED
from t2t.tasks.formatting import Text
from t2t.tasks.objectives import text_features
from t2t.tasks.objectives.features import Lengths, OutputFeatures, require
from t2t.tasks.register import add
from t2t.vocabularies import Vocabulary


def add_preferences(
    name: str,
    *,
    source: seqio.DataSource,
    inputs: Text,
    chosen: Text,
    rejected: Text,
    prefix: str = "",
    metrics: Sequence[Callable[..., Mapping[str, Any]]] = (),
    vocabulary: Vocabulary | seqio.Vocabulary | None = None,
    postprocess: Callable[..., Any] | None = None,
    keep: Sequence[str] = (),
    replace: bool = False,
) -> seqio.Task:
    """Register a task of pairs of answers for `t2t.objectives.Preference`.

    Other objectives train on the preferred answers alone, and evaluation generates and compares with them, as in any task of inputs and targets.

    Args:
      inputs: the prompt: a field of the source, a format string or a function, as in `add`.
      chosen: the preferred answer. It is the target.
      rejected: the other answer.

    Other arguments and errors are those of `add`.
    """
    return add(
        name,
        source=source,
        inputs=inputs,
        targets=chosen,
        second=rejected,
        prefix=prefix,
        metrics=metrics,
        vocabulary=vocabulary,
        objective=preference_pairs,
        features=preference_features,
        postprocess=postprocess,
        keep=keep,
        replace=replace,
    )


def preference_features(vocabulary: Vocabulary | seqio.Vocabulary) -> dict[str, seqio.Feature]:
    """Return the features `inputs`, `targets` and `rejected`, all with EOS."""
    features = text_features(vocabulary)
    return {**features, REJECTED: features["targets"]}


def preference_pairs(
    dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures
) -> tf.data.Dataset:
    """Tokenize the second text as `rejected`, and append EOS to all features.

    Raises UserError if the task has not the features of `preference_features`.
    """
    require("preference_pairs", output_features, "inputs", "targets", REJECTED)
    vocabulary = output_features[REJECTED].vocabulary

    def tokenized(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids = tf.cast(vocabulary.encode_tf(example["second"]), tf.int32)
        return {**example, REJECTED: ids, f"{REJECTED}_pretokenized": example["second"]}

    pairs = dataset.map(tokenized, num_parallel_calls=tf.data.AUTOTUNE)
    return seqio.preprocessors.append_eos(pairs, output_features)
