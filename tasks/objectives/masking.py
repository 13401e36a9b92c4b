"""Masked language modelling (BERT, https://arxiv.org/abs/1810.04805) and answers as masks after an encoder's inputs."""

from __future__ import annotations

import tensorflow as tf

from t2t.tasks.objectives.features import Lengths, OutputFeatures, end, require
from t2t.tasks.objectives.masker import MaskedWindow, cast_features, row_length
from t2t.tasks.objectives.special import frame, with_mask
from t2t.tasks.objectives.streams import Example, map_with_seed, windows


def masked_lm(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
) -> tf.data.Dataset:
    """Choose a fraction of a text's tokens to predict; most of them become the mask, some another token, some stay.

    Each epoch chooses new tokens (RoBERTa's dynamic masking, https://arxiv.org/abs/1907.11692, section 4.1). There is no next sentence
    prediction (section 4.2).

    `inputs`, `targets` (the text) and `weights` (1 at the chosen tokens) have equal length. Of n ordinary tokens, round(n * rate)
    are chosen, at least one. Special tokens, including the unknown token, are neither chosen nor used as a replacement. A window
    is between [CLS] and [SEP] if the vocabulary has them; otherwise EOS follows it.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: the shorter of `inputs` and `targets` is the length of a window, including special tokens.
      output_features: `inputs`, `targets`, `weights`; see `encoder_features`.
      rate: fraction of the tokens to predict.
      masked: fraction of these that become the mask.
      replaced: fraction of these that become a random ordinary token.

    Raises:
      UserError: a fraction out of range, a vocabulary without a mask, or no space for a token.
    """
    masked_window = MaskedWindow(
        "masked_lm", sequence_length, output_features, rate=rate, masked=masked, replaced=replaced
    )
    return map_with_seed(windows(dataset, masked_window.room), masked_window)


def fill_mask(dataset: tf.data.Dataset, sequence_length: Lengths, output_features: OutputFeatures) -> tf.data.Dataset:
    """Convert inputs and targets to an encoder's example: the inputs, then a mask for each token of the answer and EOS.

    `inputs` = inputs ++ masks, `targets` = inputs ++ answer ++ EOS, `weights` = 1 at answer and EOS; all have equal length.
    If the vocabulary has these tokens: [CLS] inputs [SEP] masks, with [SEP] as EOS. The number of masks reveals the length of
    the answer. The answer is never trimmed: if both do not fit, the inputs lose their end, and `inputs_trimmed` counts the
    tokens removed. Other fields, for example the pretokenized texts, are kept.

    Args:
      dataset: examples with `inputs` and `targets`: ids of shape [N] and [M], without EOS.
      sequence_length: the shorter of `inputs` and `targets` is the maximum length.
      output_features: `inputs`, `targets`, `weights`; see `encoder_features`.

    Raises:
      UserError: a vocabulary without a mask.
    """
    require("fill_mask", output_features, "inputs", "targets", "weights")
    vocabulary, mask_id = with_mask("fill_mask", output_features["targets"])
    head, middle = frame(vocabulary, output_features["targets"])
    middle = middle if vocabulary.sep_id is not None else middle[:0]
    final = tf.cast(end(output_features["targets"]), tf.int32)
    length = row_length(sequence_length)

    def fill(example: Example) -> Example:
        inputs, answer = tf.cast(example["inputs"], tf.int32), tf.cast(example["targets"], tf.int32)
        answer = tf.concat([answer, final], 0)
        size = tf.size(inputs)
        if length is not None:
            inputs = inputs[: tf.maximum(length - head.shape[0] - middle.shape[0] - tf.size(answer), 0)]
        trimmed = size - tf.size(inputs)
        inputs = tf.concat([head, inputs, middle], 0)
        features = {
            **example,
            "inputs": tf.concat([inputs, tf.fill(tf.shape(answer), mask_id)], 0),
            "targets": tf.concat([inputs, answer], 0),
            "weights": tf.concat([tf.zeros_like(inputs), tf.ones_like(answer)], 0),
            "inputs_trimmed": trimmed,
        }
        return cast_features(features, output_features)

    return dataset.map(fill, num_parallel_calls=tf.data.AUTOTUNE)
