"""Self-supervised objectives as SeqIO preprocessors, and encoder versions of supervised tasks.

Each objective is a function `(dataset, sequence_length, output_features, *, parameters)`. Place it directly after
`seqio.preprocessors.tokenize`, on token ids without EOS. Bind other parameter values with `functools.partial`. Objectives
include T5's chunking, trimming and EOS steps, so they must be the last preprocessor:

- A text longer than the window becomes several examples; nothing is cut off. Unlike in T5, texts are not joined to
  fill a window, because rows are packed later. A text without tokens gives no example.
- Every feature with `add_eos` ends in EOS. If the targets continue the text (causal and prefix LM), EOS is only at the
  end of the text.
- Randomness is stateless and seeded by SeqIO: the same seed gives the same examples, and an iterator's checkpoint
  holds the position in the stream of seeds. Epochs differ if the source is repeated, as in `get_dataset(num_epochs=...)`
  and in this project's pipeline. Repeating the finished dataset repeats its examples.
"""

from t2t.tasks.objectives.answering import classify, classify_several, find_span, regress, tag_words
from t2t.tasks.objectives.denoising import deshuffling, dropped_tokens, masked_denoising, replaced_tokens
from t2t.tasks.objectives.features import (
    encoder_features,
    label_features,
    span_features,
    text_features,
    texts_features,
    value_features,
)
from t2t.tasks.objectives.infilling import bart, sentence_permutation, text_infilling
from t2t.tasks.objectives.language_modelling import causal_lm, fill_in_the_middle, prefix_lm
from t2t.tasks.objectives.lengths import corrupted_lengths, raw_length
from t2t.tasks.objectives.masked_units import IDENTIFIERS, entity_masked_lm, span_masked_lm, whole_word_masked_lm
from t2t.tasks.objectives.masking import fill_mask, masked_lm
from t2t.tasks.objectives.modes import with_mode
from t2t.tasks.objectives.pairs import pair_decision
from t2t.tasks.objectives.pieces import Piece, spans
from t2t.tasks.objectives.sentence_pairs import (
    masked_lm_with_next_sentence,
    masked_lm_with_sentence_order,
    translation_lm,
)
from t2t.tasks.objectives.span_corruption import span_corruption
from t2t.tasks.objectives.texts import separate_texts

__all__ = [
    "IDENTIFIERS",
    "Piece",
    "bart",
    "causal_lm",
    "classify",
    "classify_several",
    "corrupted_lengths",
    "deshuffling",
    "dropped_tokens",
    "encoder_features",
    "entity_masked_lm",
    "fill_in_the_middle",
    "fill_mask",
    "find_span",
    "label_features",
    "masked_denoising",
    "masked_lm",
    "masked_lm_with_next_sentence",
    "masked_lm_with_sentence_order",
    "pair_decision",
    "prefix_lm",
    "raw_length",
    "regress",
    "replaced_tokens",
    "sentence_permutation",
    "separate_texts",
    "span_corruption",
    "span_features",
    "span_masked_lm",
    "spans",
    "tag_words",
    "text_features",
    "text_infilling",
    "texts_features",
    "translation_lm",
    "value_features",
    "whole_word_masked_lm",
    "with_mode",
]
