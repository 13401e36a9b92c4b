"""Masking shared by all masked language models: choose tokens, and corrupt them by BERT's 80/10/10 rule (https://arxiv.org/abs/1810.04805).

The objectives differ in the tokens that they choose, a `Choice`: tokens, whole units (words, entities), or spans of units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import seqio
import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, limit, require
from t2t.tasks.objectives.special import frame, ordinary_ids, with_mask
from t2t.tasks.objectives.streams import Example

Choice = Callable[[tf.Tensor, tf.Tensor, tf.Tensor, float, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""(ids [N], candidates bool [N], draws float [N], rate, seed [2]) -> chosen bool [N], group int32 [N] below N: a group is masked, replaced or kept as one."""


class Masker:
    """Masks tokens of one vocabulary.

    rate:     fraction of the tokens to predict.
    masked:   fraction of these that become the mask.
    replaced: fraction of these that become another token.

    Raises:
      UserError: a fraction out of range, or a vocabulary without a mask.
    """

    def __init__(
        self, objective: str, feature: seqio.Feature, *, rate: float, masked: float = 0.8, replaced: float = 0.1
    ) -> None:
        if not 0 < rate <= 1:
            raise UserError(f"rate={rate} of {objective}: must be above 0 and at most 1; BERT uses 0.15.")
        if not (masked >= 0 and replaced >= 0 and masked + replaced <= 1):
            raise UserError(
                f"masked={masked}, replaced={replaced} of {objective}: must be fractions with a sum of at most 1; BERT uses 0.8 and 0.1."
            )
        self.vocabulary, self.mask_id = with_mask(objective, feature)
        self._rate, self._masked, self._replaced = rate, masked, replaced
        ordinary = ordinary_ids(self.vocabulary)
        self._maskable = np.isin(np.arange(self.vocabulary.size), ordinary)
        self._others = np.asarray(ordinary, np.int32)

    def __call__(self, ids: tf.Tensor, seed: tf.Tensor, choose: Choice | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Return ids [N] with masked tokens, and int32 [N], 1 at the chosen tokens. The default of `choose` is `single_tokens`."""
        score, fate, draw = tf.unstack(tf.random.stateless_uniform([3, tf.size(ids)], seed))
        chosen, group = (choose or single_tokens)(ids, tf.gather(self._maskable, ids), score, self._rate, seed)
        fate = tf.gather(fate, group)
        drawn = tf.gather(self._others, tf.cast(draw * len(self._others), tf.int32))
        hidden = tf.where(fate < self._masked, self.mask_id, tf.where(fate < self._masked + self._replaced, drawn, ids))
        return tf.where(chosen, hidden, ids), tf.cast(chosen, tf.int32)


class MaskedWindow:
    """Fills `inputs`, `targets` and `weights` with masked windows of text, between [CLS] and [SEP] or followed by EOS.

    room: maximum number of text tokens in a window, None for unlimited.
    rate, masked, replaced: see `Masker`.

    Raises:
      UserError: a missing feature, an error of `Masker`, or no space for a token.
    """

    def __init__(
        self,
        objective: str,
        sequence_length: Lengths,
        output_features: OutputFeatures,
        *,
        rate: float,
        masked: float,
        replaced: float,
    ) -> None:
        require(objective, output_features, "inputs", "targets", "weights")
        self._features = output_features
        self._masker = Masker(objective, output_features["targets"], rate=rate, masked=masked, replaced=replaced)
        self.vocabulary = self._masker.vocabulary
        self._head, self._tail = frame(self.vocabulary, output_features["targets"])
        self._around = (self._head.shape[0], self._tail.shape[0])
        self.room = room(objective, sequence_length, sum(self._around))

    def __call__(self, ids: tf.Tensor, seed: tf.Tensor, choose: Choice | None = None) -> Example:
        """Return the example of a window with ids [N]."""
        ids = tf.cast(ids, tf.int32)
        hidden, chosen = self._masker(ids, seed, choose)
        features = {
            "inputs": tf.concat([self._head, hidden, self._tail], 0),
            "targets": tf.concat([self._head, ids, self._tail], 0),
            "weights": tf.pad(chosen, [self._around]),
        }
        return cast_features(features, self._features)


def single_tokens(
    ids: tf.Tensor, candidates: tf.Tensor, draws: tf.Tensor, rate: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Choose single tokens: round(n * rate) of n candidates, at least one."""
    available = tf.reduce_sum(tf.cast(candidates, tf.int32))
    count = rounded_count(available, rate)
    order = tf.argsort(tf.where(candidates, draws, 2.0))
    chosen = tf.scatter_nd(order[:count, None], tf.ones([count], tf.int32), tf.shape(ids)) > 0
    return chosen, tf.range(tf.size(ids))


def rounded_count(available: tf.Tensor, rate: float) -> tf.Tensor:
    """Return round(available * rate), at least 1 if any are available."""
    count = tf.cast(tf.round(tf.cast(available, tf.float32) * rate), tf.int32)
    return tf.minimum(tf.maximum(count, 1), available)


def room(objective: str, sequence_length: Lengths, taken: int, least: int = 1) -> int | None:
    """Return the number of text tokens that fit in an encoder's row with `taken` other tokens, None for unlimited.

    Raises:
      UserError: fewer than `least`.
    """
    length = row_length(sequence_length)
    if length is not None and length < taken + least:
        raise UserError(f"inputs_length={length} is too short for {objective}: it needs at least {taken + least}.")
    return None if length is None else length - taken


def row_length(sequence_length: Lengths) -> int | None:
    """Return the length of an encoder's row: the shorter of `inputs` and `targets`."""
    lengths = [n for n in (limit(sequence_length, "inputs"), limit(sequence_length, "targets")) if n is not None]
    return min(lengths, default=None)


def cast_features(example: Example, output_features: Mapping[str, seqio.Feature]) -> Example:
    """Return the example with each feature cast to its dtype."""
    return {k: tf.cast(v, output_features[k].dtype) if k in output_features else v for k, v in example.items()}
