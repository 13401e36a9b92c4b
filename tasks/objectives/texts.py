"""Groups of texts for vectors of texts: a query, its positive and hard negatives, or two texts whose similarity is known."""

from __future__ import annotations

import tensorflow as tf

from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, limit, require
from t2t.tasks.objectives.special import frame
from t2t.tasks.objectives.streams import Example


def separate_texts(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    prefix: str = "",
    negatives: str | None = None,
    max_negatives: int = 0,
) -> tf.data.Dataset:
    """Convert a text, a second text and further texts to an encoder's example: [CLS] first [SEP] [CLS] second [SEP] ..., each a text of its own.

    The second text is `second`, or `targets` if there is none. If the texts do not fit, the longest lose their ends, so that all have at most the same
    number of tokens; `inputs_trimmed` counts the tokens removed. `targets` becomes the number of each token's text, `weights` is 1 at the first token,
    `texts` is the number of texts, and `texts_pretokenized` has the texts.

    Args:
      dataset: examples with `inputs`: ids of the first text, without EOS; the texts `inputs_pretokenized` and `second` or `targets`.
      sequence_length: maximum length of `inputs`, for all texts together.
      output_features: see `texts_features`.
      prefix: text to prepend to all texts but the first.
      negatives: field with further texts: a text or a vector of texts. Empty texts are left out.
      max_negatives: number of further texts to use, from the first.

    Raises:
      UserError: the length is too short.
    """
    require("separate_texts", output_features, "inputs", "targets", "weights", "texts")
    feature = output_features["inputs"]
    head, tail = frame(from_seqio(feature.vocabulary), feature)
    around = int(head.shape[0]) + int(tail.shape[0])
    length = limit(sequence_length, "inputs")
    least = (2 + max_negatives) * (around + 1)
    if length is not None and length < least:
        raise UserError(
            f"inputs_length={length} is too short for {2 + max_negatives} texts in a row: it needs at least {least}."
        )

    def ids(text: tf.Tensor) -> tf.Tensor:
        return tf.cast(feature.vocabulary.encode_tf(text), tf.int32)

    def convert(example: Example) -> Example:
        first = tf.cast(example["inputs"], tf.int32)
        further = _further(example, negatives, max_negatives)
        texts = tf.strings.join([prefix, further])
        signature = tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0)
        rest = tf.map_fn(ids, texts, fn_output_signature=signature)
        tokens = tf.concat([tf.RaggedTensor.from_row_lengths(first, [tf.size(first, tf.int64)]), rest], 0)
        sizes = tf.cast(tokens.row_lengths(), tf.int32)
        count = tf.size(sizes)
        if length is not None:
            tokens = tokens[:, : _longest(sizes, length - around * count, length)]
        ends = [tf.tile(part[None], [count, 1]) for part in (head, tail)]
        framed = tf.concat([ends[0], tokens, ends[1]], axis=1)
        inputs = framed.values
        return {
            **example,
            "inputs": inputs,
            "targets": tf.cast(framed.value_rowids(), tf.int32),
            "weights": tf.cast(tf.range(tf.size(inputs)) == 0, tf.int32),
            "texts": count,
            "texts_pretokenized": tf.concat([example["inputs_pretokenized"][None], texts], 0),
            "inputs_trimmed": tf.reduce_sum(sizes) - tf.size(tokens.values),
        }

    return dataset.map(convert, num_parallel_calls=tf.data.AUTOTUNE)


def _further(example: Example, negatives: str | None, max_negatives: int) -> tf.Tensor:
    """Return all texts but the first."""
    second = (example["second"] if "second" in example else example["targets"])[None]
    if negatives is None:
        return second
    found = tf.reshape(example[negatives], [-1])
    return tf.concat([second, tf.boolean_mask(found, tf.strings.length(found) > 0)[:max_negatives]], 0)


def _longest(sizes: tf.Tensor, room: tf.Tensor, most: int) -> tf.Tensor:
    """Return the largest length such that texts of these sizes, cut to it, fit in `room` tokens. most: a number at least that large."""
    lengths = tf.range(most + 1)
    totals = tf.reduce_sum(tf.minimum(sizes[None], lengths[:, None]), axis=1)
    return tf.reduce_max(tf.where(totals <= room, lengths, 0))
