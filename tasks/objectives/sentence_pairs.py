"""Next sentence prediction (BERT), sentence order prediction (ALBERT) and translation language modelling (XLM)."""

from __future__ import annotations

import tensorflow as tf

from t2t.errors import UserError
from t2t.tasks.objectives.features import Lengths, OutputFeatures, require
from t2t.tasks.objectives.masker import Masker, cast_features, room
from t2t.tasks.objectives.pairs import FEATURES, Pair, boundary_scores, word_finder
from t2t.tasks.objectives.streams import Example, map_with_seed, windows
from t2t.tasks.objectives.units import whole_units

ANSWERS = ("yes", "no")


def masked_lm_with_next_sentence(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
    whole_words: bool = False,
    answers: tuple[str, str] = ANSWERS,
    pair_weight: float = 1.0,
    neighbours: int = 64,
) -> tf.data.Dataset:
    """Mask pairs of texts and predict whether the second text continues the first (half of the pairs) or comes from another text.

    BERT's pretraining (Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1 and appendix A.2). A window of text is cut at the
    start of a random sentence (of a word if there is none). The other text is a random neighbour in the stream. The part taken from it is as
    long as the true second half, so that length gives no hint. The unused second half appears in other epochs. Texts with fewer than two
    tokens are skipped.

    The neighbours are grouped within a virtual shard, in each epoch's new order. They are therefore the same for any number of hosts, and the
    shard's position saves and restores them. A group with a single text, at the end of a finite stream, has true pairs only.

    Args:
      dataset: examples with `targets`: ids of shape [N], without EOS.
      sequence_length: the shorter of `inputs` and `targets` is the length of a pair, including three special tokens.
      output_features: `inputs`, `targets`, `weights`, `types`; see `encoder_features(types=True)`.
      rate, masked, replaced: as `masked_lm`.
      whole_words: whether to mask whole words, as `whole_word_masked_lm`.
      answers: the words for "is next" and "is not next". One token of each is predicted: the first in which they differ.
      pair_weight: weight of that token, as a fraction of the number of masked tokens; 1 adds two means, as BERT does. The weight is rounded
        to an integer number of tokens.
      neighbours: number of texts in a group, from which the other text is drawn.

    Raises:
      UserError: a number out of range, a vocabulary without a mask or the answers' tokens, or no space for two tokens.
    """
    name = "masked_lm_with_next_sentence"
    if neighbours < 2:
        raise UserError(f"neighbours={neighbours} of {name}: must be 2 or more, so that there is another text.")
    pair = Pair(
        name,
        sequence_length,
        output_features,
        answers=answers,
        pair_weight=pair_weight,
        whole_words=whole_words,
        rate=rate,
        masked=masked,
        replaced=replaced,
    )

    def ids(example: Example) -> tf.Tensor:
        return tf.cast(example["targets"], tf.int32)

    def pairs(group: tf.RaggedTensor) -> tf.data.Dataset:
        flat, ends = group.values, tf.cast(group.row_splits, tf.int32)
        sizes = ends[1:] - ends[:-1]
        width = sizes if pair.room is None else tf.fill(tf.shape(sizes), pair.room)
        counts = (sizes + width - 1) // width
        text = tf.repeat(tf.range(tf.size(sizes)), counts)
        within = (tf.range(tf.size(text)) - tf.repeat(tf.cumsum(counts, exclusive=True), counts)) * tf.gather(
            width, text
        )
        start = tf.gather(ends, text) + within
        stop = tf.minimum(start + tf.gather(width, text), tf.gather(ends, text + 1))
        found = tf.data.Dataset.from_tensor_slices({"text": text, "start": start, "stop": stop})
        return found.map(lambda at: {**at, "targets": flat[at["start"] : at["stop"]], "flat": flat, "ends": ends})

    def mask(at: Example, seed: tf.Tensor) -> Example:
        window, flat, ends = at["targets"], at["flat"], at["ends"]
        seeds = tf.random.split(tf.cast(seed, tf.int32), 4)
        cut = _random_cut(window, pair, seeds[0])
        draws = tf.random.stateless_uniform([2], seeds[1])
        others = tf.size(ends) - 2
        other = tf.cast(draws[0] * tf.cast(others, tf.float32), tf.int32)
        other += tf.cast(other >= at["text"], tf.int32)
        other = tf.minimum(other, others)
        whole_text = flat[ends[other] : ends[other + 1]]
        size = tf.minimum(tf.size(window) - cut, tf.size(whole_text))
        # Start at a sentence with enough text after its start.
        scores = boundary_scores(whole_text, pair.words, tf.random.stateless_uniform([tf.size(whole_text)], seeds[2]))
        other_start = tf.argmax(scores[: tf.size(whole_text) - size + 1], output_type=tf.int32)
        true = tf.logical_or(draws[1] < 0.5, tf.equal(others, 0))
        second = tf.cond(true, lambda: window[cut:], lambda: whole_text[other_start : other_start + size])
        return pair(window[:cut], second, true, seeds[3])

    long_enough = dataset.map(ids, num_parallel_calls=tf.data.AUTOTUNE).filter(lambda text: tf.size(text) > 1)
    found = long_enough.ragged_batch(neighbours).flat_map(pairs).filter(lambda at: tf.size(at["targets"]) > 1)
    return map_with_seed(found, mask)


def masked_lm_with_sentence_order(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
    whole_words: bool = False,
    answers: tuple[str, str] = ANSWERS,
    pair_weight: float = 1.0,
) -> tf.data.Dataset:
    """Mask pairs of adjacent texts and predict whether they are in order (half of the pairs) or swapped.

    ALBERT's sentence order prediction (Lan et al. 2020, https://arxiv.org/abs/1909.11942, section 3.1). Windows are cut as in
    `masked_lm_with_next_sentence`. A window of one token is skipped.

    Args: as `masked_lm_with_next_sentence`; the answers are the words for "in order" and "swapped".

    Raises:
      UserError: as `masked_lm_with_next_sentence`.
    """
    pair = Pair(
        "masked_lm_with_sentence_order",
        sequence_length,
        output_features,
        answers=answers,
        pair_weight=pair_weight,
        whole_words=whole_words,
        rate=rate,
        masked=masked,
        replaced=replaced,
    )

    def mask(ids: tf.Tensor, seed: tf.Tensor) -> Example:
        ids = tf.cast(ids, tf.int32)
        seeds = tf.random.split(tf.cast(seed, tf.int32), 3)
        cut = _random_cut(ids, pair, seeds[0])
        true = tf.random.stateless_uniform([], seeds[1]) < 0.5
        first, second = tf.cond(true, lambda: (ids[:cut], ids[cut:]), lambda: (ids[cut:], ids[:cut]))
        return pair(first, second, true, seeds[2])

    return map_with_seed(windows(dataset, pair.room).filter(lambda ids: tf.size(ids) > 1), mask)


def translation_lm(
    dataset: tf.data.Dataset,
    sequence_length: Lengths,
    output_features: OutputFeatures,
    *,
    rate: float = 0.15,
    masked: float = 0.8,
    replaced: float = 0.1,
    whole_words: bool = False,
) -> tf.data.Dataset:
    """Mask two parallel texts in one row, the task's `inputs` and `targets`, so that each helps to predict the other.

    XLM's translation language modelling (Lample and Conneau 2019, https://arxiv.org/abs/1901.07291, section 3.4): [CLS] A [SEP] B [SEP], or
    A EOS B EOS if the vocabulary has no such tokens, with round(n * rate) tokens of each text to predict. `types` 0 and 1 replace XLM's
    language embeddings. XLM restarts positions at the second text; here they continue. If both do not fit, the longer one loses its end, and
    `inputs_trimmed` counts the tokens removed. A pair with an empty text is skipped.

    Args:
      dataset: examples with `inputs` and `targets`: ids of shape [N] and [M], without EOS.
      sequence_length: the shorter of `inputs` and `targets` is the length of a pair, including special tokens.
      output_features: `inputs`, `targets`, `weights`, `types`; see `encoder_features(types=True)`.
      rate, masked, replaced: as `masked_lm`.
      whole_words: whether to mask whole words, as `whole_word_masked_lm`.

    Raises:
      UserError: a fraction out of range, a vocabulary without a mask, or no space for two tokens.
    """
    name = "translation_lm"
    require(name, output_features, *FEATURES)
    masker = Masker(name, output_features["targets"], rate=rate, masked=masked, replaced=replaced)
    vocabulary = masker.vocabulary
    words = word_finder(vocabulary, whole_words) if whole_words else None
    framed = vocabulary.cls_id is not None and vocabulary.sep_id is not None
    head = tf.constant([vocabulary.cls_id] if framed else [], tf.int32)
    tail = tf.constant([vocabulary.sep_id if framed else vocabulary.eos_id], tf.int32)
    length = room(name, sequence_length, int(framed) + 2, least=2)

    def masked_text(ids: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return masker(ids, seed, None if words is None else whole_units(words.starts(ids)))

    def mask(example: Example, seed: tf.Tensor) -> Example:
        first, second = tf.cast(example["inputs"], tf.int32), tf.cast(example["targets"], tf.int32)
        size = tf.size(first) + tf.size(second)
        if length is not None:
            first = first[: tf.maximum(length - tf.size(second), (length + 1) // 2)]
            second = second[: length - tf.size(first)]
        seeds = tf.random.split(tf.cast(seed, tf.int32), 2)
        (hidden, chosen), (other, picked) = masked_text(first, seeds[0]), masked_text(second, seeds[1])
        nothing, before = tf.zeros([1], tf.int32), tf.zeros_like(head)
        features = {
            "inputs": tf.concat([head, hidden, tail, other, tail], 0),
            "targets": tf.concat([head, first, tail, second, tail], 0),
            "weights": tf.concat([before, chosen, nothing, picked, nothing], 0),
            "types": tf.concat([before, tf.zeros_like(first), nothing, tf.ones_like(second), nothing + 1], 0),
            "inputs_trimmed": size - tf.size(first) - tf.size(second),
        }
        return cast_features(features, output_features)

    both = dataset.filter(lambda example: tf.minimum(tf.size(example["inputs"]), tf.size(example["targets"])) > 0)
    return map_with_seed(both.map(lambda e: {"inputs": e["inputs"], "targets": e["targets"]}), mask)


def _random_cut(ids: tf.Tensor, pair: Pair, seed: tf.Tensor) -> tf.Tensor:
    """Return a random position in ids [N], from 1 to N - 1, at which to cut them."""
    scores = boundary_scores(ids, pair.words, tf.random.stateless_uniform([tf.size(ids)], seed))
    return 1 + tf.argmax(scores[1:], output_type=tf.int32)
