"""Masked language modelling (BERT, https://arxiv.org/abs/1810.04805) and answers filled in behind an encoder's inputs."""

from __future__ import annotations

import functools

import numpy as np
import seqio
import tensorflow as tf

from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, end, limit, require
from t2t.tasks.objectives.streams import Example, map_with_seed, windows
from t2t.vocabularies import Vocabulary, WordPiece


def masked_lm(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
) -> tf.data.Dataset:
    """Choose a share of a text's tokens to predict; most of them become the mask, some another token, some stay.

    `inputs`, `targets` (the text) and `weights` (1 at the chosen tokens) have equal length. Of n ordinary tokens
    round(n * rate) are chosen, at least one. Special tokens, the unknown one included, are neither chosen nor drawn as
    a replacement. A window is framed by [CLS] and [SEP] where the vocabulary has them; otherwise EOS follows it.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: the shorter of `inputs` and `targets` is the length of a window, frame included.
      output_features: `inputs`, `targets`, `weights`; see `encoder_features`.
      rate: share of the tokens to predict.
      masked: share of those that become the mask.
      replaced: share of those that become a random ordinary token.

    Raises:
      UserError: a share out of range, a vocabulary without a mask, or no room for a token.
    """
    require("masked_lm", output_features, "inputs", "targets", "weights")
    if not 0 < rate <= 1:
        raise UserError(f"rate={rate} of masked_lm: must be above 0 and at most 1; BERT's is 0.15.")
    if masked < 0 or replaced < 0 or masked + replaced > 1:
        raise UserError(f"masked={masked}, replaced={replaced} of masked_lm: shares of 1; BERT's are 0.8 and 0.1.")
    vocabulary, mask_id = with_mask("masked_lm", output_features["targets"])
    ordinary = ordinary_ids(vocabulary)
    maskable = tf.constant(np.isin(np.arange(vocabulary.size), ordinary))
    others = tf.constant(ordinary, tf.int32)
    head, tail = _frame(vocabulary, output_features["targets"])
    before, after = head.shape[0], tail.shape[0]
    length = _shorter(sequence_length)
    if length is not None and length <= before + after:
        raise UserError(f"inputs_length={length} is too short for masked_lm: it needs at least {before + after + 1}.")

    def mask(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        ids = tf.cast(ids, tf.int32)
        score, fate, draw = tf.unstack(tf.random.stateless_uniform([3, tf.size(ids)], seed))
        candidates = tf.gather(maskable, ids)
        available = tf.reduce_sum(tf.cast(candidates, tf.int32))
        count = tf.cast(tf.round(tf.cast(available, tf.float32) * rate), tf.int32)
        count = tf.minimum(tf.maximum(count, 1), available)
        order = tf.argsort(tf.where(candidates, score, 2.0))
        chosen = tf.scatter_nd(order[:count, None], tf.ones([count], tf.int32), tf.shape(ids))
        drawn = tf.gather(others, tf.cast(draw * len(ordinary), tf.int32))
        hidden = tf.where(fate < masked, mask_id, tf.where(fate < masked + replaced, drawn, ids))
        made = {
            "inputs": tf.concat([head, tf.where(chosen > 0, hidden, ids), tail], 0),
            "targets": tf.concat([head, ids, tail], 0),
            "weights": tf.pad(chosen, [[before, after]]),
        }
        return _cast(made, output_features)

    room = None if length is None else length - before - after
    return map_with_seed(windows(dataset, room), mask)


def fill_mask(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Turn inputs and targets into an encoder's example: a mask behind the inputs for each token of the answer and its end.

    `inputs` = inputs ++ masks, `targets` = inputs ++ answer ++ EOS, `weights` = 1 at answer and EOS; all of equal length.
    With a vocabulary that has them: [CLS] inputs [SEP] masks, [SEP] being EOS. The number of masks tells how long the
    answer is. An answer is never cut for the inputs' sake: where both do not fit, the inputs lose their end, and
    `inputs_trimmed` counts the tokens lost. Other fields, the pretokenized texts for example, are passed on.

    Args:
      dataset: examples with `inputs` and `targets`: ids of shape [N] and [M], without EOS.
      sequence_length: the shorter of `inputs` and `targets` is the limit.
      output_features: `inputs`, `targets`, `weights`; see `encoder_features`.

    Raises:
      UserError: a vocabulary without a mask.
    """
    require("fill_mask", output_features, "inputs", "targets", "weights")
    vocabulary, mask_id = with_mask("fill_mask", output_features["targets"])
    head, middle = _frame(vocabulary, output_features["targets"])
    middle = middle if vocabulary.sep_id is not None else middle[:0]
    final = tf.cast(end(output_features["targets"]), tf.int32)
    length = _shorter(sequence_length)

    def fill(example: Example) -> Example:
        inputs, answer = tf.cast(example["inputs"], tf.int32), tf.cast(example["targets"], tf.int32)
        answer = tf.concat([answer, final], 0)
        size = tf.size(inputs)
        if length is not None:
            inputs = inputs[: tf.maximum(length - head.shape[0] - middle.shape[0] - tf.size(answer), 0)]
        trimmed = size - tf.size(inputs)
        inputs = tf.concat([head, inputs, middle], 0)
        made = {
            **example,
            "inputs": tf.concat([inputs, tf.fill(tf.shape(answer), mask_id)], 0),
            "targets": tf.concat([inputs, answer], 0),
            "weights": tf.concat([tf.zeros_like(inputs), tf.ones_like(answer)], 0),
            "inputs_trimmed": trimmed,
        }
        return _cast(made, output_features)

    return dataset.map(fill, num_parallel_calls=tf.data.AUTOTUNE)


def with_mask(objective: str, feature: seqio.Feature) -> tuple[Vocabulary, int]:
    """Return a feature's vocabulary and its mask. Raises UserError where it has none."""
    vocabulary = from_seqio(feature.vocabulary)
    if vocabulary.mask_id is None:
        raise UserError(f"{objective}: {vocabulary} has no mask; give it extra_ids=1 or more.")
    return vocabulary, vocabulary.mask_id


@functools.lru_cache(maxsize=16)
def ordinary_ids(vocabulary: Vocabulary) -> np.ndarray:
    """Return the ids that stand for text: neither special nor sentinels nor BERT's unused ones."""
    special = {
        vocabulary.pad_id,
        vocabulary.eos_id,
        vocabulary.unk_id,
        vocabulary.bos_id,
        vocabulary.mask_id,
        vocabulary.cls_id,
        vocabulary.sep_id,
    }
    ids = [i for i in range(vocabulary.size - vocabulary.extra_ids) if i not in special]
    if isinstance(vocabulary, WordPiece):
        ids = [i for i in ids if not vocabulary.decode([i]).replace(" ", "").startswith("[unused")]
    return np.array(ids, np.int32)


def _frame(vocabulary: Vocabulary, feature: seqio.Feature) -> tuple[tf.Tensor, tf.Tensor]:
    """Return what stands before and after a text: [CLS] and [SEP], or nothing and EOS."""
    if vocabulary.cls_id is not None and vocabulary.sep_id is not None:
        return tf.constant([vocabulary.cls_id]), tf.constant([vocabulary.sep_id])
    return tf.zeros([0], tf.int32), tf.cast(end(feature), tf.int32)


def _shorter(sequence_length: Lengths) -> int | None:
    given = [n for n in (limit(sequence_length, "inputs"), limit(sequence_length, "targets")) if n is not None]
    return min(given, default=None)


def _cast(example: Example, output_features: OutputFeatures) -> Example:
    return {k: tf.cast(v, output_features[k].dtype) if k in output_features else v for k, v in example.items()}
