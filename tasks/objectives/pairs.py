"""Pairs of texts for an encoder: masked [CLS] A [SEP] B [SEP], `types` 0 and 1, and a question about the pair at the first position.

The answer is one token, which the vocabulary's head predicts like a masked token. BERT and ALBERT have a separate head with two
classes on [CLS].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, require
from t2t.tasks.objectives.masker import Choice, Masker, cast_features, room
from t2t.tasks.objectives.special import ordinary_ids
from t2t.tasks.objectives.streams import Example
from t2t.tasks.objectives.units import whole_units
from t2t.tasks.objectives.words import Words
from t2t.vocabularies import Vocabulary

FEATURES = ("inputs", "targets", "weights", "types")


class Pair:
    """Fills the features with a masked pair of texts and the answer to a question about them.

    The format is [CLS] A [SEP] B [SEP], or mask A EOS B EOS if the vocabulary has no such tokens. The answer is the target at the first
    position.

    room: maximum number of tokens of both texts together, None for unlimited.

    Raises:
      UserError: a missing feature, a fraction or weight out of range, a vocabulary without a mask, answers with the same first tokens or
        without a token in the vocabulary, or no space for two tokens.
    """

    def __init__(
        self,
        objective: str,
        sequence_length: Lengths,
        output_features: OutputFeatures,
        *,
        answers: Sequence[str],
        pair_weight: float,
        whole_words: bool,
        **shares: float,
    ) -> None:
        require(objective, output_features, *FEATURES)
        if not 0 < pair_weight < float("inf"):
            raise UserError(
                f"pair_weight={pair_weight} of {objective}: must be above 0; 1 weighs as much as all masked tokens."
            )
        self._features, self._weight = output_features, pair_weight
        self._masker = Masker(objective, output_features["targets"], **shares)
        vocabulary = self._masker.vocabulary
        self._answers = answer_ids(objective, vocabulary, answers)
        self._answer_texts = [vocabulary.decode([answer]) for answer in self._answers]
        self._first_token = self._masker.mask_id if vocabulary.cls_id is None else vocabulary.cls_id
        self._end = vocabulary.eos_id if vocabulary.sep_id is None else vocabulary.sep_id
        self.words = word_finder(vocabulary, whole_words)
        self._whole = whole_words
        self.room = room(objective, sequence_length, 3, least=2)

    def __call__(self, first: tf.Tensor, second: tf.Tensor, true: tf.Tensor, seed: tf.Tensor) -> Example:
        """Return the example of two texts, int32 [N] and [M].

        `true` (bool []) is whether the first of the answers is right. `pair` (0 for the first answer) and `pair_answers` (the texts of both
        answers' tokens) are for `pair_decision`.
        """
        end = tf.constant([self._end])
        text = tf.concat([[self._first_token], first, end, second, end], 0)
        hidden, chosen = self._masker(text, seed, _choice(self.words, text) if self._whole else None)
        weight = tf.cast(tf.round(self._weight * tf.cast(tf.reduce_sum(chosen), tf.float32)), tf.int32)
        answer = tf.where(true, self._answers[0], self._answers[1])
        features = {
            "inputs": hidden,
            "targets": tf.concat([[answer], text[1:]], 0),
            "weights": tf.concat([[tf.maximum(weight, 1)], chosen[1:]], 0),
            "types": tf.cast(tf.range(tf.size(text)) > 1 + tf.size(first), tf.int32),
            "pair": tf.cast(tf.logical_not(true), tf.int32),
            "pair_answers": tf.constant(self._answer_texts),
        }
        return cast_features(features, self._features)


def _choice(words: Words | None, text: tf.Tensor) -> Choice:
    assert words is not None
    return whole_units(words.starts(text))


def word_finder(vocabulary: Vocabulary, needed: bool) -> Words | None:
    """Return the word and sentence finder, or None if the vocabulary has no known word boundaries and they are not needed."""
    try:
        return Words(vocabulary)
    except UserError:
        if needed:
            raise
        return None


def answer_ids(objective: str, vocabulary: Vocabulary, answers: Sequence[str]) -> tuple[int, int]:
    """Return one token for each of two answers: the first token in which their encodings differ.

    Raises:
      UserError: not two answers, one answer is a prefix of the other, or the token is not an ordinary token.
    """
    if isinstance(answers, str) or len(answers) != 2:
        raise UserError(f"answers={answers!r} of {objective}: expected two words; the default is yes and no.")
    ids = [vocabulary.encode(answer) for answer in answers]
    found = next(((a, b) for a, b in zip(*ids, strict=False) if a != b), None)
    known = ordinary_ids(vocabulary)
    if found is None or not all(i in known for i in found):
        raise UserError(
            f"answers={tuple(answers)!r} of {objective}: {vocabulary} has no token that distinguishes them."
        )
    return found


def boundary_scores(ids: tf.Tensor, words: Words | None, draws: tf.Tensor) -> tf.Tensor:
    """Return random scores [N] for ids [N] that are highest at sentence starts, then at word starts.

    draws: random numbers in [0, 1), [N].
    """
    if words is None:
        return draws
    first = tf.equal(tf.range(tf.size(ids)), 0)
    sentences = tf.logical_or(first, words.sentences(ids))
    return draws + tf.cast(words.starts(ids), tf.float32) + tf.cast(sentences, tf.float32)


def pair_decision(text: str, example: Mapping[str, Any] | None = None, is_target: bool = False) -> str:
    """Return the answer that a predicted text starts with, "" for none. This is a `postprocess` for `metrics.pair_accuracy`.

    For a target, the example gives the answer. The text of a row is its answer followed by its masked tokens.
    """
    assert example is not None
    answers = [str(answer, "utf-8") for answer in example["pair_answers"]]
    if is_target:
        return answers[int(example["pair"])]
    return max((answer for answer in answers if text.startswith(answer)), key=len, default="")
