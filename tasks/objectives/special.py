"""Special ids of a vocabulary, and the special tokens around a text."""

from __future__ import annotations

import functools

import numpy as np
import seqio
import tensorflow as tf

from t2t.data.vocabularies import from_seqio
from t2t.errors import UserError
from t2t.tasks.objectives.features import end
from t2t.vocabularies import Vocabulary, WordPiece


def with_mask(objective: str, feature: seqio.Feature) -> tuple[Vocabulary, int]:
    """Return a feature's vocabulary and its mask id. Raise UserError if it has none."""
    vocabulary = from_seqio(feature.vocabulary)
    if vocabulary.mask_id is None:
        raise UserError(f"{objective}: {vocabulary} has no mask; give it extra_ids=1 or more.")
    return vocabulary, vocabulary.mask_id


@functools.lru_cache(maxsize=16)
def ordinary_ids(vocabulary: Vocabulary) -> np.ndarray:
    """Return the ids that stand for text: all but special tokens, sentinels and BERT's unused tokens."""
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


def frame(vocabulary: Vocabulary, feature: seqio.Feature) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the tokens before and after a text: [CLS] and [SEP], or nothing and EOS."""
    if vocabulary.cls_id is not None and vocabulary.sep_id is not None:
        return tf.constant([vocabulary.cls_id]), tf.constant([vocabulary.sep_id])
    return tf.zeros([0], tf.int32), tf.cast(end(feature), tf.int32)
